"""Bundle -> Triton repository: ``python -m export.triton --bundle build/qks [--out build/triton]``."""

import re
import shutil
import sys
from pathlib import Path

import onnx

from export.tensorrt_graph import describe
from export.triton_config import (
    ONNX,
    TENSORRT,
    Model,
    encoder_config,
    ensemble_config,
    matcher_config,
)
from export.triton_guide import guide
from ovml_deploy.commandline import command, count, run
from ovml_deploy.errors import ExportError, UsageError
from ovml_deploy.files import write_folder_atomically
from ovml_deploy.runtime.bundle import ENCODER, MANIFEST, MATCHER, Bundle
from ovml_deploy.runtime.plans import ENTERPRISE, Plan, Tensor
from ovml_deploy.runtime.precision import why_not_on_cpu
from ovml_deploy.runtime.vocabulary import load_named, stored_file

MAX_BATCH = 32
README = "README.md"

_CONFIG = "config.pbtxt"
_VERSION = "1"
_PLAN = "encoder.plan"  # whatever it was called: Triton needs no JSON beside it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def write_repository(
    bundle: Bundle,
    out: str | Path,
    vocab: str | None = None,
    max_batch: int = MAX_BATCH,
    plan: Plan | None = None,
    name: str | None = None,
) -> list[str]:
    """Write a model repository with three models to the folder ``out``, whole or not at all.

    ``vocab``: a vocabulary of the bundle to lay beside them; default: the bundle's own default, if it
    has one. ``max_batch``: images that the encoder takes at once. ``plan``: an encoder for the GPU, in
    the graph's place. ``name``: of the ensemble; default: the bundle's folder. Returns the models'
    names, the ensemble's first. Raises UsageError, ExportError, BundleError, VocabularyError.
    """
    target = Path(out)
    chosen = _checked_name(bundle.path.name if name is None else name)
    names = [chosen, f"{chosen}_encoder", f"{chosen}_matcher"]
    if max_batch < 1:
        raise UsageError(f"--max-batch is {max_batch}; it must be at least 1.")
    _require_free(target, names)
    vocab = bundle.default_vocabulary if vocab is None else vocab
    words = None if vocab is None else load_named(bundle, vocab)
    graphs = {
        part: onnx.load(bundle.file(part), load_external_data=False) for part in (ENCODER, MATCHER)
    }
    encoder, files = _encoder(bundle, names[1], max_batch, plan, graphs[ENCODER])
    matcher = Model(names[2], ONNX, MATCHER, *_tensors(graphs[MATCHER]))
    opset = max(i.version for graph in graphs.values() for i in graph.opset_import if not i.domain)
    configs = [
        ensemble_config(chosen, encoder, matcher),
        encoder_config(encoder, max_batch),
        matcher_config(matcher),
    ]
    with write_folder_atomically(target) as folder:
        for model, config in zip(names, configs, strict=True):
            (folder / model / _VERSION).mkdir(parents=True)
            (folder / model / _CONFIG).write_text(config, "utf-8")
        # Triton wants the folder, and neither git nor an object store keeps an empty one
        (folder / chosen / _VERSION / "ensemble.txt").write_text("An ensemble has no file.\n")
        for file, source in files.items():
            shutil.copyfile(source, folder / names[1] / _VERSION / file)
        for file, source in _graph_files(bundle, MATCHER).items():
            shutil.copyfile(source, folder / names[2] / _VERSION / file)
        if words is not None:
            file = f"{words.name}.safetensors"
            shutil.copyfile(stored_file(bundle, words.name), folder / file)
        models = (encoder, matcher)
        text = guide(bundle, models, target.name, chosen, max_batch, words, plan, opset)
        (folder / README).write_text(text, "utf-8")
    return names


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a model, for folders and URLs have its name: that consists of ASCII "
            "letters, digits, '_', '-' and '.', and begins with one of the former two. Say another: --name."
        )
    return name


def _require_free(target: Path, names: list[str]) -> None:
    """Only what this command wrote is overwritten: a repository may hold the models of others."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ExportError(f"{str(target)!r} is a file. Name a folder with --out.")
    held = {path.name for path in target.iterdir()}
    foreign = {
        entry
        for entry in held - {*names, README}
        if not (entry.endswith(".safetensors") and (target / entry).is_file())
    }
    if held and (foreign or not held.issuperset(names) or MANIFEST in held):
        raise ExportError(
            f"{str(target)!r} is neither empty nor a repository of {names[0]!r} alone, so it is not "
            "overwritten. Name another --out, and copy the models from there."
        )


def _encoder(
    bundle: Bundle, name: str, max_batch: int, plan: Plan | None, graph: onnx.ModelProto
) -> tuple[Model, dict[str, Path]]:
    """The encoder and the files that hold it, by the names they shall have."""
    if plan is None:
        only_gpu = why_not_on_cpu(bundle.precision) is not None
        model = Model(name, ONNX, ENCODER, *_tensors(graph), only_gpu)
        return model, _graph_files(bundle, ENCODER)
    plan.check_bundle(bundle)
    if plan.flavour != ENTERPRISE:
        raise ExportError(
            f"{plan.path} is a plan of TensorRT for RTX, which Triton does not load. Build one of "
            f"enterprise TensorRT (python -m export.tensorrt --bundle {bundle.path} --flavour "
            f"{ENTERPRISE}), or leave --plan away."
        )
    engine = plan.graphs[ENCODER]
    most = engine.profile["batch"][2]
    if max_batch > most:
        raise UsageError(
            f"--max-batch is {max_batch}, and {plan.path} takes {most} images at most. Say --max-batch "
            f"{most}, or build the plan for more (--batch 1,8,{max_batch})."
        )
    model = Model(name, TENSORRT, _PLAN, engine.inputs, engine.outputs, only_gpu=True)
    return model, {_PLAN: plan.file(ENCODER)}


def _tensors(model: onnx.ModelProto) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return describe(list(model.graph.input)), describe(list(model.graph.output))


def _graph_files(bundle: Bundle, name: str) -> dict[str, Path]:
    """A graph, and the weights that a large one keeps beside it; their SHA-256 are checked."""
    graph = bundle.file(name)
    parts = (name, f"{name}.data")
    return {part: graph.with_name(part) for part in parts if part in bundle.manifest["files"]}


@command(max_batch=count)
def main(
    bundle: str,
    out: str = "build/triton",
    vocab: str | None = None,
    max_batch: int = MAX_BATCH,
    plan: str | None = None,
    name: str | None = None,
) -> None:
    """Write a Triton model repository of a bundle: encoder, matcher, and both joined; labels are an input.

    Args:
        bundle: the bundle's folder
        out: the repository's folder
        vocab: a vocabulary of the bundle to lay beside the models; default: the bundle's default one
        max_batch: images that the encoder takes at once, of one request or many
        plan: an encoder built by export.tensorrt --flavour enterprise, in the place of encoder.onnx
        name: of the ensemble; default: the bundle's folder
    """
    given = None if plan is None else Plan.read(plan)
    names = write_repository(Bundle.open(bundle), out, vocab, max_batch, given, name)
    print(f"{out}: {', '.join(names)}. How to start and to call them: {Path(out) / README}")


if __name__ == "__main__":
    sys.exit(run(main, "python -m export.triton"))
