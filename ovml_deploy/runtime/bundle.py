"""The bundle: the exported folder, checked before anything in it is used (DESIGN §4)."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ovml_deploy.assets import in_package
from ovml_deploy.errors import BundleError, LabelError
from ovml_deploy.files import sha256_file, write_atomically
from ovml_deploy.runtime.labels import check_labels
from ovml_deploy.runtime.learned_tokens import BRANCHES, LearnedTokens
from ovml_deploy.runtime.precision import TOLERANCE
from ovml_deploy.runtime.preprocessing import Preprocessing
from ovml_deploy.user_folders import NoFolderError, data_folder

FORMAT = "ovml-deploy/bundle"
VERSION = 1

MANIFEST = "bundle.json"
ENCODER = "encoder.onnx"
MATCHER = "matcher.onnx"
TEXT_ENCODER = "text_encoder.onnx"
TOKENIZER = "tokenizer.json"
GOLDEN = "golden.safetensors"
PICTURES = "pictures.safetensors"
TUNED = "tuned.safetensors"
VOCABULARIES = "vocabularies"

#: The encoder's second output, in bundles that have an ``attention_grid``.
ATTENTION = "attention"

_VOCABULARY_SUFFIX = ".safetensors"
_MOST_TOKENS = 2**31


@dataclass(frozen=True)
class TextSettings:
    """How labels become token ids.

    ``clean``: open_clip's text cleaning ("lower", "whitespace", "canonicalize").
    ``any_length``: ids may be cut to the longest text of a batch; otherwise they are padded to
    ``context_length``. ``needs_mask``: the graph takes ``attention_mask`` as its second input.
    """

    context_length: int
    any_length: bool
    needs_mask: bool
    pad_id: int
    clean: str


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Files are checked against their SHA-256 when they are asked for."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, engine: str | Path) -> "Bundle":
        """Open a bundle folder, or the folder of a file in one. Raises BundleError."""
        path = Path(engine)
        folder = path.parent if path.is_file() else path
        manifest_path = folder / MANIFEST
        if not manifest_path.is_file():
            raise BundleError(
                f"{str(engine)!r} is not a bundle: there is no {MANIFEST} in it. Make one with "
                "'python -m export.onnx --ckpt qks.pt --out build/qks'."
            )
        try:
            manifest = json.loads(manifest_path.read_text("utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise BundleError(
                f"{manifest_path} is damaged ({error}). Export the bundle again."
            ) from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise BundleError(f"{manifest_path} does not describe a bundle of this project.")
        if manifest.get("version") != VERSION:
            raise BundleError(
                f"{manifest_path} has bundle version {manifest.get('version')!r}; this release reads "
                f"version {VERSION}. Export the bundle again."
            )
        bundle = cls(folder.resolve(), manifest)
        bundle._check_manifest()
        return bundle

    @property
    def head(self) -> str:
        """The kind of head: "qks", "prompt-tuned" or "zero-shot"."""
        return str(self.manifest["head"]["kind"])

    @property
    def activation(self) -> str:
        """What turns logits into scores: "sigmoid" or "softmax"."""
        return str(self.manifest["head"]["activation"])

    @property
    def precision(self) -> str:
        """Of the encoder's products: "fp32", "fp16", "bf16" or "int8"."""
        return str(self.manifest.get("precision", "fp32"))

    @property
    def failed_gate(self) -> Mapping[str, str]:
        """Precisions in which the model does not keep its tags, wherever it runs, and why."""
        return dict(self.manifest.get("failed_gate", {}))

    @property
    def normalises_labels(self) -> bool:
        """Whether prompts and their mean are brought to unit norm."""
        return bool(self.manifest["head"]["normalises_labels"])

    @property
    def embed_dim(self) -> int:
        """D, the width of image and text features."""
        return int(self.manifest["dims"]["embedding"])

    @property
    def label_dim(self) -> int:
        """The width of label embeddings: D, or several D (one for each branch of the head)."""
        return int(self.manifest["dims"].get("label", self.embed_dim))

    @property
    def features_per_image(self) -> int:
        """M, the number of features of an image."""
        return int(self.manifest["dims"]["features"])

    @property
    def attention_grid(self) -> tuple[int, int] | None:
        """Rows and columns of the encoder's attention; None where it gives none."""
        grid = self.manifest.get("attention_grid")
        if grid is None:
            return None
        rows, columns = grid
        return rows, columns

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompt pool of the bundle's label embeddings."""
        return tuple(self.manifest["templates"])

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The backbone's own image preprocessing."""
        return Preprocessing.from_config(self.manifest["preprocessing"])

    @cached_property
    def text(self) -> TextSettings:
        """How labels become token ids."""
        return TextSettings(**self.manifest["text"])

    @cached_property
    def learned_tokens(self) -> LearnedTokens | None:
        """Where a prompt-tuned head's tokens stand in a prompt; None for other heads."""
        value = self.manifest.get("learned_tokens")
        if value is None:
            return None
        _require(isinstance(value["groups"], list), "learned tokens without a list of groups")
        return LearnedTokens(**{**value, "groups": tuple(value["groups"])})

    @cached_property
    def text_hash(self) -> str:
        """Names the text encoder: its graph, tokenizer and settings (16 hexadecimal digits).

        For a prompt-tuned head also the tuned labels, so that two tunings are told apart.
        """
        files = self.manifest["files"]
        parts = [files[TEXT_ENCODER]["sha256"], files[TOKENIZER]["sha256"], self.manifest["text"]]
        if self.learned_tokens is not None:
            parts += [self.manifest["learned_tokens"], files[TUNED]["sha256"]]
        return _short_hash(parts)

    @cached_property
    def prompt_hash(self) -> str:
        """Names the prompt pool and how it is averaged (16 hexadecimal digits)."""
        return _short_hash([list(self.templates), self.normalises_labels])

    @cached_property
    def model_hash(self) -> str:
        """Names the model by the outputs that PyTorch gave it, so at any precision alike."""
        return _short_hash(self.manifest["files"][GOLDEN]["sha256"])

    @cached_property
    def manifest_hash(self) -> str:
        """Names the exported files, settings and hashes of this bundle (16 hexadecimal digits)."""
        return _short_hash(self.manifest)

    def file(self, name: str) -> Path:
        """Return the path of a file of the bundle after checking its SHA-256.

        Raises BundleError where it is missing, changed, or outside the bundle.
        """
        if name not in self.manifest["files"]:
            raise BundleError(f"{self.path} lists no file {name!r}. Export the bundle again.")
        # A large graph keeps its weights beside it, in a file that is named after it.
        for part in (name, f"{name}.data"):
            if part in self.manifest["files"]:
                self._check_file(part)
        return self.inside(name)

    def _check_file(self, name: str) -> None:
        path = self.inside(name)
        if not path.is_file():
            raise BundleError(
                f"{path} is missing. Copy the whole bundle folder, or export it again."
            )
        if sha256_file(path) != self.manifest["files"][name]["sha256"]:
            raise BundleError(
                f"{path} was changed after export: its SHA-256 is not the one in {MANIFEST}. "
                "Copy the bundle again, or export it again."
            )

    def inside(self, name: str) -> Path:
        """Return a path below the bundle's folder. Raises BundleError for one that climbs out."""
        path = (self.path / name).resolve()
        if not path.is_relative_to(self.path):
            raise BundleError(
                f"The bundle {self.path} names {name!r}, which lies outside it. Do not use this bundle."
            )
        return path

    def vocabulary_file(self, name: str) -> Path:
        """Return the path at which a vocabulary of this name is stored, or would be.

        In the bundle; of the embedded model, which is not changed, in the user's data folder for all
        that did not ship with it. Raises BundleError for a path out of the bundle, and NoFolderError
        where the user has no data folder.
        """
        inside = self.inside(f"{VOCABULARIES}/{name}{_VOCABULARY_SUFFIX}")
        if inside.exists() or not in_package(self.path):
            return inside
        return self._user_vocabularies() / f"{name}{_VOCABULARY_SUFFIX}"

    def vocabulary_names(self) -> list[str]:
        """Return the names of the vocabularies stored for the bundle."""
        folders = [self.path / VOCABULARIES]
        if in_package(self.path):
            with suppress(NoFolderError):
                folders.append(self._user_vocabularies())
        return sorted({p.stem for f in folders for p in f.glob(f"*{_VOCABULARY_SUFFIX}")})

    def _user_vocabularies(self) -> Path:
        return data_folder() / VOCABULARIES / self.path.name

    @property
    def default_vocabulary(self) -> str | None:
        """The vocabulary used where none is named."""
        name = self.manifest.get("default_vocabulary")
        return None if name is None else str(name)

    def _check_manifest(self) -> None:
        try:
            for name, listed in self.manifest["files"].items():
                self.inside(name)
                _require(isinstance(listed["sha256"], str), f"no SHA-256 of {name!r}")
                _require(isinstance(listed["bytes"], int), f"no size of {name!r}")
            needed = {ENCODER, MATCHER, TEXT_ENCODER, TOKENIZER, GOLDEN}
            if self.learned_tokens is not None:
                needed.add(TUNED)
            missing = needed - set(self.manifest["files"])
            if missing:
                raise BundleError(f"{self.path} lists no {', '.join(sorted(missing))}.")
            _ = (self.head, self.normalises_labels, self.preprocessing)
            self._check_values()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BundleError(
                f"{self.path / MANIFEST} is incomplete ({type(error).__name__}: {error}). "
                "Export the bundle again."
            ) from error

    def _check_values(self) -> None:
        _require(self.activation in ("sigmoid", "softmax"), f"activation {self.activation!r}")
        _require(self.precision in TOLERANCE, f"precision {self.precision!r}")
        _ = self.failed_gate
        dims = (self.embed_dim, self.features_per_image, self.label_dim)
        _require(min(dims) > 0, "a dimension below 1")
        grid = self.attention_grid
        sizes = () if grid is None else grid
        _require(all(type(n) is int and n > 0 for n in sizes), f"an attention grid of {grid}")
        templates = self.manifest["templates"]
        _require(isinstance(templates, list) and len(templates) > 0, "no list of templates")
        for template in templates:
            _require(template.count("{}") == 1, f"template {template!r}")
        text, types = asdict(self.text), TextSettings.__annotations__
        for name, value in text.items():
            _require(type(value) is types[name], f"text setting {name} = {value!r}")
        if self.learned_tokens is not None:
            _check_learned_tokens(self.learned_tokens, self.text.context_length)
        parts = 1 if self.learned_tokens is None else len(BRANCHES)
        _require(self.label_dim == parts * self.embed_dim, f"labels of {self.label_dim} dimensions")


def _check_learned_tokens(tokens: LearnedTokens, context_length: int) -> None:
    counts = {"lead": tokens.lead, "shared": tokens.shared, "grouped": tokens.grouped}
    for name, value in counts.items():
        _require(type(value) is int and value >= 0, f"learned tokens {name} = {value!r}")
    # more could be in no prompt; and nothing as long must be made
    _require(sum(counts.values()) < context_length, f"learned tokens {counts}")
    first = tokens.first_id
    _require(type(first) is int and 0 < first < _MOST_TOKENS, f"learned tokens from id {first!r}")
    try:
        named = check_labels(tokens.groups) if tokens.groups else ()
    except LabelError as error:
        raise ValueError(f"groups of labels: {error}") from error
    _require(named == tokens.groups, "a group with outer space in its name")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``bundle.json``, whole or not at all. Raises OSError."""
    with write_atomically(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _short_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
