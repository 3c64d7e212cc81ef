"""Any open_clip model as a frozen backbone: pooled embeddings, image tokens, text features."""

import difflib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.activation import check_activation
from ovml_deploy.models.clip_weights import is_weights_file, load_clip_weights, refuse_folder
from ovml_deploy.models.fitting import check_finite
from ovml_deploy.models.text import TextTower
from ovml_deploy.models.tokens import image_tokens, token_width
from ovml_deploy.models.weights_file import first_line
from ovml_deploy.runtime.preprocessing import Preprocessing

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"


@dataclass(frozen=True)
class BackboneSpec:
    """What open_clip needs to build a model.

    ``name``: a built-in architecture ("ViT-B-16-quickgelu"), "hf-hub:org/repo",
    "local-dir:/folder", or the path of a model configuration (.json).
    ``pretrained``: a tag ("openai") or a weights file; unused with the two prefixes.
    """

    name: str
    pretrained: str | None = None

    @property
    def has_weights(self) -> bool:
        """Whether it says where weights come from."""
        return self.pretrained is not None or self.name.startswith((LOCAL_DIR, HF_HUB))

    def relative_to(self, folder: Path) -> "BackboneSpec":
        """Return the spec with its files written relative to ``folder`` where they are below it.

        Files elsewhere get an absolute path; names and tags stay.
        """
        return self._map_paths(lambda path: _below(folder, path))

    def found_from(self, folder: Path) -> "BackboneSpec":
        """Return the spec with the files that lie in ``folder`` found there: the way back."""
        return self._map_paths(lambda path: folder / path if (folder / path).exists() else path)

    def _map_paths(self, change: Callable[[Path], Path]) -> "BackboneSpec":
        name, pretrained = self.name, self.pretrained
        if name.startswith(LOCAL_DIR):
            name = f"{LOCAL_DIR}{change(Path(name.removeprefix(LOCAL_DIR)))}"
        elif name.endswith(".json"):
            name = str(change(Path(name)))
        if pretrained and Path(pretrained).suffix:  # a file; tags have no suffix
            pretrained = str(change(Path(pretrained)))
        return BackboneSpec(name, pretrained)


class Backbone(nn.Module):
    """A frozen open_clip model in float32 and eval mode."""

    model: Any  # open_clip's classes share no interface
    mean: Tensor
    std: Tensor

    def __init__(self, spec: BackboneSpec, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.spec = spec
        #: The text files it was built from, where they came out of a checkpoint.
        self.files: Mapping[str, str] | None = None
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.text = TextTower(self.model)
        self.preprocessing = Preprocessing.from_config(self.model.visual.preprocess_cfg)
        self.embed_dim: int = self.text.embed_dim
        self.width: int = token_width(self.model.visual, self.embed_dim)
        mean, std = self.preprocessing.mean, self.preprocessing.std
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    @classmethod
    def load(
        cls, spec: BackboneSpec, *, load_weights: bool = True, weights: str = "auto"
    ) -> "Backbone":
        """Build the model that ``spec`` names and read its weights.

        ``weights``: which weights of a file that also holds their moving average, see
        ``wrappers.find_state``. Raises CheckpointError where it cannot be built, its weights cannot
        be had or are not finite, or its activation does not fit its weights.
        """
        name = registered_name(spec.name)
        config = model_config(spec.name)
        if load_weights:
            if not spec.has_weights:
                raise CheckpointError(
                    f"No weights are named for the backbone {spec.name!r}, so they would be "
                    "random. Name a tag of open_clip or a weights file with --pretrained."
                )
            check_activation(name, spec.pretrained)
            if name.startswith(LOCAL_DIR):
                refuse_folder(Path(name.removeprefix(LOCAL_DIR)))
        from_file = load_weights and is_weights_file(spec.pretrained)
        by_open_clip = load_weights and not from_file
        overrides = _local_text_config(name, config)
        try:
            with _quiet(enabled=not by_open_clip):
                model = open_clip.create_model(
                    name,
                    pretrained=spec.pretrained if by_open_clip else None,
                    load_weights=by_open_clip,
                    pretrained_text=False,
                    require_pretrained=by_open_clip,
                    **overrides,
                )
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # open_clip raises anything, from KeyError to hub errors
            raise CheckpointError(
                f"open_clip cannot build backbone {spec.name!r} with weights "
                f"{spec.pretrained!r}: {first_line(error)}"
            ) from error
        if from_file:
            load_clip_weights(model, str(spec.pretrained), spec.name, name, weights)
        elif load_weights:
            check_finite(model.state_dict(), spec.pretrained or spec.name)
        return cls(spec, model, tokenizer)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode: a backbone is frozen."""
        return super().train(False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 ``[B, H, W, 3]`` -> float32 ``[B, 3, H, W]``, with the backbone's mean and std."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def pooled(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, H, W]`` -> embeddings ``[B, D]``, not of unit norm."""
        return self.model.encode_image(images)

    def image_tokens(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, H, W]`` -> tokens ``[B, N, W]``; token 0 is the whole image.

        A ViT with a projection gives its last block after the final LayerNorm (W is its width).
        Other towers give each position through their own pooling and projection (W = D).
        """
        return image_tokens(self.model.visual, images)

    @cached_property
    def positions(self) -> int:
        """N, how many places of an image have a token of their own."""
        height, width = self.preprocessing.size
        with torch.no_grad():
            image = torch.zeros(1, 3, height, width, device=self.mean.device)
            return self.image_tokens(image).shape[1] - 1

    def initial_projection(self) -> Tensor:
        """Return ``[W, D]``: what takes a token into the space of the text features."""
        if isinstance(self.model.visual, VisionTransformer):
            return self.model.visual.proj.detach().clone()
        return torch.eye(self.embed_dim)

    @torch.no_grad()  # not inference mode: a trainer multiplies by these and goes backward
    def text_features(self, texts: list[str], batch_size: int = 256) -> Tensor:
        """Return text features ``[P, D]``, not normalised, encoded at the texts' own length."""
        features = [
            self.text.encode(self.tokenizer(texts[start : start + batch_size]).to(self.mean.device))
            for start in range(0, len(texts), batch_size)
        ]
        return torch.cat(features)

    @cached_property
    def lead_tokens(self) -> int:
        """How many ids begin every text: a start token, or none."""
        ids = self.tokenizer(["a", "z"])
        return int((ids[0] != ids[1]).nonzero()[0])

    @property
    def pad_id(self) -> int:
        """The id with which the tokenizer fills up."""
        if isinstance(self.tokenizer, HFTokenizer):
            return int(self.tokenizer.tokenizer.pad_token_id)
        return 0  # SimpleTokenizer fills with zeros

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the texts' ids without padding."""
        return [_without_tail(row, self.pad_id) for row in self.tokenizer([*texts]).tolist()]

    def word_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the texts' ids without those that begin and end every text."""
        (empty,) = self.token_ids([""])
        tail = len(empty) - self.lead_tokens
        return [row[self.lead_tokens : len(row) - tail] for row in self.token_ids(texts)]

    def pad(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return ids ``[P, context_length]`` of rows of ids."""
        ids = torch.full((len(rows), self.text.context_length), self.pad_id)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = torch.tensor(values)
        return ids.to(self.mean.device)

    @property
    def logit_scale(self) -> float:
        """The trained temperature, as a factor."""
        return float(self.model.logit_scale.exp())

    @property
    def logit_bias(self) -> float | None:
        """SigLIP's trained bias; None for CLIP."""
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else float(bias)


def _without_tail(row: list[int], pad_id: int) -> list[int]:
    while row and row[-1] == pad_id:
        row.pop()
    return row


def model_config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a model, hub and local folders included.

    Raises CheckpointError for an unknown model, or a configuration that is damaged or asks for
    code to be run.
    """
    try:
        config = open_clip.get_model_config(registered_name(name))
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client has its own families of errors
        raise CheckpointError(f"The configuration of {name!r} cannot be read: {error}") from error
    if config is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=4, cutoff=0.5)
        raise CheckpointError(
            f"open_clip knows no model {name!r}. Similar names: {', '.join(close) or 'none'}. "
            "A folder is written local-dir:/path, a hub model hf-hub:org/repo."
        )
    _check_config(config, name)
    return config


def registered_name(name: str) -> str:
    """Return the name by which open_clip knows a model, after reading a .json configuration."""
    if name.startswith((LOCAL_DIR, HF_HUB)):
        return name
    if not name.endswith(".json"):
        return name.replace("/", "-")
    path = Path(name)
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"The model configuration {name!r} does not exist.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The configuration {name!r} cannot be read: {error}") from error
    # Checked before open_clip sees it: it keeps reading every file it was ever given.
    _check_config(config, name)
    open_clip.add_model_config(path.absolute())
    return path.stem


def _check_config(config: Any, name: str) -> None:
    parts = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or any(part not in config for part in parts):
        raise CheckpointError(
            f"{name!r} is not an open_clip model configuration: it needs embed_dim, vision_cfg "
            "and text_cfg."
        )
    if "trust_remote_code" in json.dumps(config):
        raise CheckpointError(
            f"The configuration of {name!r} asks to run code that comes with it "
            "(trust_remote_code), so it was refused. Use a tokenizer that needs none."
        )


def _local_text_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Point a Hugging Face text tower that is named "." at the folder that holds it.

    open_clip itself resolves that name against the working directory.
    """
    text = config["text_cfg"]
    if not name.startswith(LOCAL_DIR) or text.get("hf_model_name") != ".":
        return {}
    folder = str(Path(name.removeprefix(LOCAL_DIR)).resolve())
    return {"text_cfg": {**text, "hf_model_name": folder, "hf_model_pretrained": False}}


def _below(folder: Path, path: Path) -> Path:
    if not path.exists():
        return path
    whole, parent = path.resolve(), folder.resolve()
    return whole.relative_to(parent) if whole.is_relative_to(parent) else whole


@contextmanager
def _quiet(enabled: bool) -> Iterator[None]:
    """Hold back open_clip's warning that a model has no weights, where they come afterwards."""
    if enabled:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
