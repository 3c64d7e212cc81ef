"""Which labels are trained on, and which are kept for evaluation only."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from ovml_deploy.errors import DataError, LabelError
from ovml_deploy.runtime.label_files import read_labels
from ovml_deploy.training.data.dataset import Dataset
from ovml_deploy.training.data.text_files import some


@dataclass(frozen=True)
class Split:
    """Labels to train on (seen) and labels kept for evaluation only (unseen)."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, seen ones first."""
        return self.seen + self.unseen


def read_unseen(path: str | Path) -> tuple[str, ...]:
    """Read unseen labels from a label file. Raises DataError."""
    return _read_list(Path(path), "unseen", "omit --unseen to use all as seen ones")


def read_seen(path: str | Path) -> tuple[str, ...]:
    """Read seen labels from a label file. Raises DataError."""
    return _read_list(Path(path), "seen", "omit --seen to use those of the data")


def make_split(
    train: Dataset,
    val: Dataset | None,
    unseen: Iterable[str] = (),
    seen: Iterable[str] | None = None,
) -> Split:
    """Split the labels of the training and validation data.

    Seen are the training data's labels but for ``unseen``. A label that only the validation data
    name cannot be learnt, so it is unseen too. A list ``seen`` takes the place of the training
    data's labels, and labels in neither list are then left out. Raises DataError.
    """
    aliases = {**(val.aliases if val is not None else {}), **train.aliases}
    named = dict.fromkeys(train.labels + (val.labels if val is not None else ()))
    known = named.keys() | set(aliases.values())
    held_back = _names(unseen, aliases, known, "unseen")
    wanted = train.labels if seen is None else _names(seen, aliases, known, "seen")
    chosen = tuple(label for label in wanted if label not in set(held_back))
    if not chosen:
        raise DataError(
            f"{str(train.source)!r} leaves no seen label, so no label to train on: {len(wanted)} "
            f"labels, {len(held_back)} held back as unseen. Take some out of the unseen ones."
        )
    if seen is not None:
        return Split(chosen, held_back)
    settled = set(train.labels) | set(held_back)
    return Split(chosen, held_back + tuple(label for label in named if label not in settled))


def _read_list(source: Path, kind: str, remedy: str) -> tuple[str, ...]:
    if not source.is_file():
        raise DataError(f"There is no file of {kind} labels {str(source)!r}.")
    try:
        return read_labels(source)
    except LabelError as error:
        raise DataError(f"{error} Or {remedy}.") from error


def _names(
    labels: Iterable[str], aliases: Mapping[str, str], known: Set[str], kind: str
) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(aliases.get(label, label) for label in labels))
    strange = [label for label in names if label not in known]
    if strange:
        raise DataError(
            f"{some(strange)} of the {kind} labels occur in no data file. Correct their spelling "
            "or take them out of the list."
        )
    return names
