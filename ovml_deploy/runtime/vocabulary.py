"""A vocabulary: an immutable, ordered list of labels with their embeddings."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ovml_deploy.errors import LabelError, VocabularyError
from ovml_deploy.files import write_atomically
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.labels import check_labels

_FORMAT = "ovml-deploy/vocabulary"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Labels and their embeddings ``[K, D]`` (float32), made by one text encoder and prompt pool.

    (D is the bundle's ``label_dim``: a prompt-tuned model has two embeddings a label, in a row.)

    With a ``calibration`` (of one engine's logits) the scores of its labels are probabilities.
    Nothing in it can be changed; to change the words, make another one and swap it in.
    """

    name: str
    labels: tuple[str, ...]
    embeddings: np.ndarray
    text_hash: str
    prompt_hash: str
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        labels = check_labels(self.labels)
        embeddings = np.ascontiguousarray(self.embeddings, dtype=np.float32)
        if embeddings.ndim != 2 or embeddings.shape[0] != len(labels):
            raise VocabularyError(
                f"{len(labels)} labels need embeddings [{len(labels)}, D]; these are "
                f"{list(embeddings.shape)}."
            )
        if not np.isfinite(embeddings).all():
            raise VocabularyError(
                f"The vocabulary {self.name!r} holds embeddings that are not finite."
            )
        if self.calibration is not None and len(self.calibration.offsets) != len(labels):
            raise VocabularyError(
                f"{len(labels)} labels need as many calibration offsets; there are "
                f"{len(self.calibration.offsets)}. Calibrate the vocabulary {self.name!r} again."
            )
        if np.may_share_memory(embeddings, self.embeddings):
            embeddings = embeddings.copy()
        embeddings.flags.writeable = False
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "embeddings", embeddings)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def id(self) -> str:
        """Names this content: labels, embeddings, what made them, and the calibration, if any.

        16 hexadecimal digits.
        """
        digest = hashlib.sha256(
            json.dumps([self.labels, self.text_hash, self.prompt_hash]).encode()
        )
        digest.update(self.embeddings.data)
        if self.calibration is not None:
            digest.update(_facts(self.calibration).encode())
            digest.update(self.calibration.offsets.data)
        return digest.hexdigest()[:16]

    def check_fits(self, bundle: Bundle) -> None:
        """Raise VocabularyError where another text encoder, prompt pool or model made it."""
        for what, mine, theirs in (
            ("text encoder", self.text_hash, bundle.text_hash),
            ("prompt pool", self.prompt_hash, bundle.prompt_hash),
        ):
            if mine != theirs:
                raise VocabularyError(
                    f"The vocabulary {self.name!r} was made for another {what} ({mine}, not {theirs}). "
                    f"Build it again: ovml-deploy vocab build labels.txt --engine {bundle.path}"
                )
        if self.calibration and self.calibration.model_hash not in ("", bundle.model_hash):
            raise VocabularyError(
                f"The vocabulary {self.name!r} was calibrated for another model "
                f"({self.calibration.model_hash}, not "
                f"{bundle.model_hash}), whose scores mean something else. Calibrate it again: "
                f"ovml-deploy vocab calibrate {self.name} --data FOLDER --engine {bundle.path}"
            )
        if self.embeddings.shape[1] != bundle.label_dim:
            raise VocabularyError(
                f"The vocabulary {self.name!r} has {self.embeddings.shape[1]} dimensions, the bundle "
                f"{bundle.label_dim}."
            )

    def save(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file, whole or not at all. Raises VocabularyError."""
        metadata = {
            "format": _FORMAT,
            "text_hash": self.text_hash,
            "prompt_hash": self.prompt_hash,
            "id": self.id,
        }
        # A tensor, as the header of a safetensors file is limited; a label holds no line break.
        text = np.frombuffer("\n".join(self.labels).encode(), dtype=np.uint8)
        tensors = {"embeddings": self.embeddings, "labels": text}
        if self.calibration is not None:
            metadata["calibration"] = _facts(self.calibration)
            tensors["offsets"] = self.calibration.offsets
        try:
            with write_atomically(path) as temporary:
                save_file(tensors, temporary, metadata)
        except (OSError, SafetensorError) as error:
            raise VocabularyError(
                f"The vocabulary cannot be written to {str(path)!r} ({error}). Nothing was changed; "
                "free some space or name another place."
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read a file that :meth:`save` wrote. Raises VocabularyError."""
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise VocabularyError(f"{str(path)!r} is not a vocabulary of this project.")
                vocabulary = cls(
                    name=Path(path).stem,
                    labels=tuple(file.get_tensor("labels").tobytes().decode().split("\n")),
                    embeddings=file.get_tensor("embeddings"),
                    text_hash=metadata["text_hash"],
                    prompt_hash=metadata["prompt_hash"],
                    calibration=_read_calibration(file, metadata),
                )
        except FileNotFoundError as error:
            raise VocabularyError(f"There is no vocabulary file {str(path)!r}.") from error
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, LabelError) as error:
            raise VocabularyError(
                f"{str(path)!r} is not a readable vocabulary ({error}). Build it again with "
                "'ovml-deploy vocab build'."
            ) from error
        if metadata.get("id") != vocabulary.id:
            raise VocabularyError(
                f"{str(path)!r} was changed after it was written: its content does not match its id. "
                "Build it again with 'ovml-deploy vocab build'."
            )
        return vocabulary


def _facts(calibration: Calibration) -> str:
    """All of a calibration but its offsets, as JSON."""
    fields = asdict(calibration)
    del fields["offsets"]
    return json.dumps(fields, sort_keys=True)


def _read_calibration(file: Any, metadata: dict[str, str]) -> Calibration | None:
    if "calibration" not in metadata:
        return None
    facts = json.loads(metadata["calibration"])
    try:
        calibration = Calibration(offsets=file.get_tensor("offsets"), **facts)
    except VocabularyError as error:
        raise ValueError(str(error)) from error
    if _facts(calibration) != metadata["calibration"]:  # other digits, though the same numbers
        raise ValueError("its calibration was changed")
    return calibration


def stored_file(bundle: Bundle, name: str) -> Path:
    """Return the file of a vocabulary stored in a bundle. Raises VocabularyError without one."""
    names: Sequence[str] = bundle.vocabulary_names()
    if name not in names:
        raise VocabularyError(
            f"The bundle {bundle.path} has no vocabulary {name!r}; it has: {', '.join(names) or 'none'}."
        )
    return bundle.vocabulary_file(name)


def load_named(bundle: Bundle, name: str) -> Vocabulary:
    """Load a vocabulary stored in a bundle by name. Raises VocabularyError."""
    vocabulary = Vocabulary.load(stored_file(bundle, name))
    vocabulary.check_fits(bundle)
    return vocabulary
