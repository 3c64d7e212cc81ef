"""The text beside a Triton model repository: how to start it, and how to call it."""

from collections.abc import Mapping

from export.triton_config import OUTPUTS, Model
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.plans import Plan, Tensor
from ovml_deploy.runtime.vocabulary import Vocabulary

_GUIDE = """\
# {name}: a Triton model repository

Written by `python -m export.triton` from the bundle `{folder}` ({head}, {precision}).

| model | takes | gives |
|---|---|---|
| `{name}` | {pixels}, {labels} | {logits}, {winners} |
| `{encoder.name}` | {pixels} | {encoded} |
| `{matcher.name}` | {features}, {labels} | {matched} |

Features do not depend on the labels: keep them, and match them with other labels later.

```bash
tritonserver --model-repository {out}
```

{runs}

## To call it

The client brings the words: the rows of `labels` are their embeddings, so new words need nothing new here.
{vocabulary}

```python
import tritonclient.grpc as triton  # pip install 'tritonclient[grpc]'

from ovml_deploy.runtime.bundle import Bundle  # of ovml-deploy: no torch, no engine
from ovml_deploy.runtime.images import open_image
from ovml_deploy.runtime.results import select_tags
from ovml_deploy.runtime.vocabulary import Vocabulary

bundle = Bundle.open("{folder}")  # the bundle's folder: it knows how pictures are cut
words = Vocabulary.load("{words}.safetensors")
pixels = bundle.preprocessing(open_image("photo.jpg"))[None]
inputs = [
    triton.InferInput("pixels", pixels.shape, "UINT8"),
    triton.InferInput("labels", words.embeddings.shape, "FP32"),
]
inputs[0].set_data_from_numpy(pixels)
inputs[1].set_data_from_numpy(words.embeddings)
answer = triton.InferenceServerClient("localhost:8001").infer("{name}", inputs)
logits, winners = answer.as_numpy("logits")[0], answer.as_numpy("winners")[0]
for tag in select_tags(logits, winners, words, bundle.activation, top_k=5, threshold=None):
    print(tag.label, tag.score)
```

Without this package: resize and crop as `preprocessing` in `bundle.json` says, and leave the bytes as they
are (the graph normalises). The file of a vocabulary has `embeddings` [K, {label_dim}], and `labels` as
UTF-8 text, one a line. Scores are the {activation} of the logits, but for a calibrated vocabulary, whose
slope and offsets are in its file.

## What to know

- **At most {max_batch} images a request**: so many does Triton gather from requests, too. For more, change
  `max_batch_size` in `{encoder.name}/config.pbtxt`, or export again with another `--max-batch`.
- **Labels travel with every request**: {label_bytes:,} bytes each. For thousands of them use Triton's
  shared memory, or `ovml-deploy serve`, which keeps a vocabulary where the engine wants it.
- **Labels cannot be batched**, since each request has its own, so requests are matched in turns. Should
  that be what holds them up, raise `count` in `{matcher.name}/config.pbtxt`.
- **float32 is float32** on GPUs since Ampere only with `NVIDIA_TF32_OVERRIDE=0` in `tritonserver`'s
  environment.
"""

_GRAPHS = """\
Both graphs run on ONNX Runtime, on every GPU it finds or else on the CPU. They are of ONNX opset {opset}:
Triton's backend must be built with an ONNX Runtime that knows it."""

_ON_GPU = """\
Both graphs run on ONNX Runtime (one that knows ONNX opset {opset}), the encoder on a GPU only, for there
are no {precision} products on the CPU."""

_PLAN = """\
The encoder is a TensorRT plan for {targets}, and loads only in a Triton whose TensorRT is {tensorrt}. The
matcher runs on ONNX Runtime: it is small, and takes any number of labels, which a plan would not."""

_WORDS = """\
`{words}.safetensors` holds {count:,} of them. For others:
`ovml-deploy vocab build labels.txt --engine {folder} --out labels.safetensors`."""

_NO_WORDS = """\
The bundle has no vocabulary of its own. To make one:
`ovml-deploy vocab build words.txt --engine {folder} --out words.safetensors`."""


def guide(
    bundle: Bundle,
    models: tuple[Model, Model],
    out: str,
    name: str,
    max_batch: int,
    words: Vocabulary | None,
    plan: Plan | None,
    opset: int,
) -> str:
    """Return the text, in Markdown, for the ensemble ``name`` of two models, in the folder ``out``."""
    encoder, matcher = models
    taken = _described({**encoder.inputs, **matcher.inputs})
    matched = _described(matcher.outputs)
    facts = {
        "folder": bundle.path.name,  # not where it lies on this machine
        "opset": opset,
        "precision": bundle.precision,
        "words": "words" if words is None else words.name,
        "count": 0 if words is None else len(words),
    }
    runs = _ON_GPU if encoder.only_gpu else _GRAPHS
    if plan is not None:
        runs = _PLAN
        facts |= {"targets": ", ".join(plan.targets), "tensorrt": plan.tensorrt}
    return _GUIDE.format(
        name=name,
        out=out,
        head=bundle.head,
        encoder=encoder,
        matcher=matcher,
        encoded=", ".join(_described(encoder.outputs).values()),
        matched=", ".join(matched.values()),
        label_dim=bundle.label_dim,
        label_bytes=4 * bundle.label_dim,
        activation=bundle.activation,
        max_batch=max_batch,
        runs=runs.format(**facts),
        vocabulary=(_NO_WORDS if words is None else _WORDS).format(**facts),
        **facts,
        **taken,
        **{output: matched[output] for output in OUTPUTS},
    )


def _described(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors by name, said as in "`features` float32 [B, 12, 384]"."""
    letters: dict[str | int, str] = {"batch": "B", "labels": "K"}
    return {
        name: f"`{name}` {t.dtype} [{', '.join(str(letters.get(s, s)) for s in t.shape)}]"
        for name, t in tensors.items()
    }
