"""Model repositories, read as Triton reads them: what it does with ONNX Runtime, these tests do, too."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import rehash

from export.onnx import export_bundle
from export.tensorrt import build_plan
from export.triton import main, write_repository
from ovml_deploy.commandline import run
from ovml_deploy.errors import BundleError, ExportError, UsageError, VocabularyError
from ovml_deploy.files import sha256_file
from ovml_deploy.runtime.bundle import ENCODER, Bundle
from ovml_deploy.runtime.plans import Plan, Tensor
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.vocabulary import Vocabulary

#: Triton's names of types, as ONNX Runtime calls them.
TYPES = {
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_INT64": "tensor(int64)",
}
Arrays = dict[str, np.ndarray]


class Repository:
    """The models of a folder, by the words of their configurations alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs = {
            path.parent.name: read_config(path) for path in folder.glob("*/config.pbtxt")
        }

    def session(self, model: str) -> onnxruntime.InferenceSession:
        (version,) = (path for path in (self.folder / model).iterdir() if path.is_dir())
        assert version.name == "1"
        path = version / self.configs[model].default_model_filename
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def infer(self, model: str, inputs: Arrays) -> Arrays:
        """Run a model, checked against its own dimensions; an ensemble's steps by its own maps."""
        config = self.configs[model]
        check(config, config.input, inputs)
        if config.platform == "ensemble":
            tensors = dict(inputs)
            for step in config.ensemble_scheduling.step:
                given = {name: tensors[tensor] for name, tensor in step.input_map.items()}
                made = self.infer(step.model_name, given)
                tensors |= {tensor: made[name] for name, tensor in step.output_map.items()}
            outputs = {output.name: tensors[output.name] for output in config.output}
        else:
            names = [output.name for output in config.output]
            found = self.session(model).run(names, inputs)
            outputs = dict(zip(names, found, strict=True))
        check(config, config.output, outputs)
        return outputs


def read_config(path: Path) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    config = text_format.Parse(path.read_text("utf-8"), ModelConfig())
    assert config.name == path.parent.name  # or Triton refuses it
    return config


def type_name(value: int) -> str:
    from tritonclient.grpc.model_config_pb2 import DataType

    return DataType.Name(value)


def full_dims(config: Any, tensor: Any) -> list[int]:
    """With the batch dimension that Triton puts before the others."""
    return [*([-1] if config.max_batch_size else []), *tensor.dims]


def check(config: Any, tensors: Any, arrays: Arrays) -> None:
    assert {tensor.name for tensor in tensors} == set(arrays)
    for tensor in tensors:
        dims, shape = full_dims(config, tensor), arrays[tensor.name].shape
        assert len(dims) == len(shape)
        assert all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle's repository. Never change it."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    folder = tmp_path_factory.mktemp("triton") / "tiny"
    write_repository(Bundle.open(tiny_bundle), folder, max_batch=16)
    return folder


@pytest.fixture(scope="module")
def tuned(tuned_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    folder = tmp_path_factory.mktemp("triton") / "tuned"
    write_repository(Bundle.open(tuned_bundle), folder, name="words")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_a_repository_holds(tiny: Path, tiny_bundle: Path) -> None:
    assert files(tiny) == [
        "README.md",
        "few.safetensors",
        "tiny/1/ensemble.txt",
        "tiny/config.pbtxt",
        "tiny_encoder/1/encoder.onnx",
        "tiny_encoder/config.pbtxt",
        "tiny_matcher/1/matcher.onnx",
        "tiny_matcher/config.pbtxt",
    ]
    for model, name in (("tiny_encoder", "encoder.onnx"), ("tiny_matcher", "matcher.onnx")):
        assert sha256_file(tiny / model / "1" / name) == sha256_file(tiny_bundle / name)
    words = Vocabulary.load(tiny / "few.safetensors")
    assert words.labels == ("cat", "dog", "red car", "tree", "person")


@pytest.mark.parametrize("which", ["tiny", "tuned"])
def test_configurations_agree_with_the_graphs(which: str, request: pytest.FixtureRequest) -> None:
    repository = Repository(request.getfixturevalue(which))
    graphs = {name: c for name, c in repository.configs.items() if c.platform != "ensemble"}
    assert len(graphs) == 2
    for name, config in graphs.items():
        assert config.platform == "onnxruntime_onnx"
        session = repository.session(name)
        for said, actual in (
            (config.input, session.get_inputs()),
            (config.output, session.get_outputs()),
        ):
            assert [
                (t.name, TYPES[type_name(t.data_type)], full_dims(config, t)) for t in said
            ] == [
                (a.name, a.type, [-1 if isinstance(size, str) else size for size in a.shape])
                for a in actual
            ]


def test_an_encoder_gathers_images_and_a_matcher_does_not(tiny: Path) -> None:
    configs = Repository(tiny).configs
    encoder, matcher, both = (configs[f"tiny{part}"] for part in ("_encoder", "_matcher", ""))
    assert encoder.max_batch_size == 16
    assert encoder.dynamic_batching.max_queue_delay_microseconds == 2000
    assert [sample.batch_size for sample in encoder.model_warmup] == [1, 16]
    assert (matcher.max_batch_size, both.max_batch_size) == (0, 0)
    assert not matcher.HasField("dynamic_batching")
    for config in (encoder, matcher):
        (group,) = config.instance_group
        assert (group.count, group.Kind.Name(group.kind)) == (1, "KIND_AUTO")


@pytest.mark.parametrize("images", [1, 3])
def test_an_ensemble_gives_the_taggers_logits(
    tiny: Path, tiny_tagger: Tagger, pictures: list[Path], images: int
) -> None:
    repository, other = Repository(tiny), tiny_tagger.make_vocabulary(["boat", "a red bench"])
    features = tiny_tagger.encode(pictures[:images])
    pixels = np.stack([tiny_tagger._pixels(picture) for picture in pictures[:images]])
    for words in (Vocabulary.load(tiny / "few.safetensors"), other):
        made = repository.infer("tiny", {"pixels": pixels, "labels": words.embeddings})
        logits, winners = tiny_tagger.engine.match(features, words)
        np.testing.assert_allclose(made["logits"], logits, atol=1e-5)
        np.testing.assert_array_equal(made["winners"], winners)
    kept = {"features": features, "labels": other.embeddings}
    np.testing.assert_allclose(repository.infer("tiny_matcher", kept)["logits"], logits, atol=1e-5)


def test_two_embeddings_a_label(tuned: Path, tuned_bundle: Path, pictures: list[Path]) -> None:
    """The matcher of tuned prompts gives either branch's logits, too; the ensemble what all give."""
    tagger, repository = Tagger.load(tuned_bundle), Repository(tuned)
    pixels = np.stack([tagger._pixels(picture) for picture in pictures[:2]])
    labels = tagger.vocabulary.embeddings
    made = repository.infer("words", {"pixels": pixels, "labels": labels})
    assert set(made) == {"logits", "winners"}
    logits = tagger.match(tagger.encode(pictures[:2]))
    np.testing.assert_allclose(made["logits"], logits, atol=1e-5)
    outputs = [output.name for output in repository.configs["words_matcher"].output]
    assert len(outputs) > 2


def test_large_weights_come_along(bundle_copy: Path, tmp_path: Path) -> None:
    graph = onnx.load(bundle_copy / ENCODER)
    data = f"{ENCODER}.data"
    onnx.save(graph, bundle_copy / ENCODER, save_as_external_data=True, location=data)
    for name in (ENCODER, data):
        rehash(bundle_copy, name)
    write_repository(Bundle.open(bundle_copy), tmp_path / "out")
    folder = tmp_path / "out/bundle_encoder/1"
    assert files(folder) == [ENCODER, data]
    pixels = np.zeros((2, *Bundle.open(bundle_copy).preprocessing.size, 3), dtype=np.uint8)
    copied, original = (
        onnxruntime.InferenceSession(place / ENCODER).run(["features"], {"pixels": pixels})
        for place in (folder, bundle_copy)
    )
    np.testing.assert_array_equal(copied[0], original[0])


def test_what_no_cpu_can_run_is_for_gpus(tiny_model: Any, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    bundle = export_bundle(tiny_model, tmp_path / "half", precision="bf16")
    write_repository(bundle, tmp_path / "out")
    configs = Repository(tmp_path / "out").configs
    (group,) = configs["half_encoder"].instance_group
    assert group.Kind.Name(group.kind) == "KIND_GPU"
    opset = max(i.version for i in onnx.load(bundle.file(ENCODER)).opset_import if not i.domain)
    text = (tmp_path / "out/README.md").read_text("utf-8")
    assert f"opset {opset})" in text
    assert "no vocabulary of its own" in text
    assert not [*(tmp_path / "out").glob("*.safetensors")]


def test_the_guide_names_what_is_there(tiny: Path) -> None:
    text = (tiny / "README.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(snippet, "README.md", "exec")
    configs = Repository(tiny).configs
    asked = re.findall(r'InferInput\("(\w+)", .*, "(\w+)"\)', snippet)
    kinds = {t.name: type_name(t.data_type).removeprefix("TYPE_") for t in configs["tiny"].input}
    assert dict(asked) == kinds
    assert set(re.findall(r'as_numpy\("(\w+)"\)', snippet)) == {
        output.name for output in configs["tiny"].output
    }
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(configs)
    assert str(tiny.parent) not in text  # nothing of this machine


def test_the_command(tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "repository"
    arguments = ["--bundle", str(tiny_bundle), "--out", str(out), "--max-batch", "4"]
    for vocab in ("few", "others"):  # the second time it takes the first one's place
        assert run(main, "triton", [*arguments, "--vocab", vocab]) == 0
        assert [path.name for path in out.glob("*.safetensors")] == [f"{vocab}.safetensors"]
    assert "tiny, tiny_encoder, tiny_matcher" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]  # no leftovers


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_batch": 0}, UsageError, "--max-batch is 0"),
        ({"name": "my model"}, UsageError, "'my model' cannot name a model"),
        ({"name": "../up"}, UsageError, "'../up' cannot name a model"),
        ({"vocab": "absent"}, VocabularyError, "it has: few, others"),
    ],
)
def test_refusals(
    tiny_bundle: Path, tmp_path: Path, options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        write_repository(Bundle.open(tiny_bundle), tmp_path / "out", **options)
    assert [*tmp_path.iterdir()] == []


def _file(out: Path) -> None:
    out.write_text("mine")


def _others(out: Path) -> None:
    (out / "resnet" / "1").mkdir(parents=True)


def _ours_and_others(out: Path) -> None:
    for model in ("tiny", "tiny_encoder", "tiny_matcher", "resnet"):
        (out / model).mkdir(parents=True)


def _notes(out: Path) -> None:
    out.mkdir()
    (out / "README.md").write_text("mine")


@pytest.mark.parametrize("fill", [_file, _others, _ours_and_others, _notes])
def test_nothing_of_others_is_overwritten(
    tiny_bundle: Path, tmp_path: Path, fill: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    fill(out)
    before = [*out.rglob("*")]
    with pytest.raises(ExportError, match="--out"):
        write_repository(Bundle.open(tiny_bundle), out)
    assert [*out.rglob("*")] == before


def test_a_bundle_is_not_overwritten_by_its_repository(bundle_copy: Path) -> None:
    with pytest.raises(ExportError, match="--out"):
        write_repository(Bundle.open(bundle_copy), bundle_copy)


def test_a_damaged_bundle_leaves_nothing(bundle_copy: Path, tmp_path: Path) -> None:
    with (bundle_copy / "matcher.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="changed after export"):
        write_repository(Bundle.open(bundle_copy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_types_that_are_not_described(tiny_bundle: Path) -> None:
    from export.triton_config import ONNX, Model, encoder_config

    odd = Model("odd", ONNX, "odd.onnx", {"pixels": Tensor("complex64", ("batch", 2))}, {})
    with pytest.raises(ExportError, match="complex64"):
        encoder_config(odd, 1)


@pytest.fixture(scope="module")
def planned(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    folder = tmp_path_factory.mktemp("planned") / "tiny"
    shutil.copytree(tiny_bundle, folder)
    return build_plan(Bundle.open(folder), targets=("sm86",), batch=(1, 2, 4), labels=(1, 5, 8))


def test_plans_of_the_rtx_edition_are_refused(planned: Plan, tmp_path: Path, capsys) -> None:
    bundle = planned.path.parent
    arguments = ["--bundle", str(bundle), "--out", str(tmp_path / "out"), "--max-batch", "4"]
    assert run(main, "triton", [*arguments, "--plan", str(planned.path)]) == 1
    assert "--flavour enterprise" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_enterprise_plans(planned: Plan, tmp_path: Path) -> None:
    """The files of a plan are not looked into: here one of the other edition stands for them."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    bundle = Bundle.open(planned.path.parent)
    plan = replace(planned, flavour="enterprise")
    write_repository(bundle, tmp_path / "out", max_batch=4, plan=plan)
    config = Repository(tmp_path / "out").configs["tiny_encoder"]
    (group,) = config.instance_group
    assert (config.platform, group.Kind.Name(group.kind)) == ("tensorrt_plan", "KIND_GPU")
    copied = tmp_path / "out/tiny_encoder/1" / config.default_model_filename
    assert sha256_file(copied) == plan.graphs[ENCODER].sha256
    assert files(copied.parent) == ["encoder.plan"]
    assert plan.tensorrt in (tmp_path / "out/README.md").read_text("utf-8")
    with pytest.raises(UsageError, match="4 images at most"):
        write_repository(bundle, tmp_path / "more", plan=plan)
    with pytest.raises(BundleError, match="another bundle"):
        write_repository(bundle, tmp_path / "more", plan=replace(plan, bundle_hash="0" * 16))
