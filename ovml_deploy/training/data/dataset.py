"""Images with labels, and the targets they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

POSITIVE, NEGATIVE, UNKNOWN = 1, 0, -1


@dataclass(frozen=True)
class Record:
    """One image and its labels; ``negative`` is None where every other label is negative."""

    path: Path
    positive: tuple[str, ...]
    negative: tuple[str, ...] | None


@dataclass(frozen=True)
class Dataset:
    """Records in file order, and the labels of the data: by first mention, or in its own order.

    ``lists_labels``: the data themselves say which labels were looked for (COCO's categories).
    ``aliases``: other names of labels, by which a list may call them (Open Images' MIDs).
    """

    source: Path
    records: tuple[Record, ...]
    labels: tuple[str, ...]
    lists_labels: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)

    def targets(self, labels: Sequence[str]) -> np.ndarray:
        """Return targets int8 ``[N, K]`` of the records for ``labels`` (K of them).

        Labels of the records that are not among ``labels`` are left out. A label outside a list
        of categories is unknown, not negative: nobody looked for it.
        """
        column = {label: index for index, label in enumerate(labels)}
        closed = np.full(len(labels), NEGATIVE, dtype=np.int8)
        if self.lists_labels:
            own = set(self.labels)
            closed[[index for label, index in column.items() if label not in own]] = UNKNOWN
        targets = np.full((len(self.records), len(labels)), UNKNOWN, dtype=np.int8)
        for row, record in zip(targets, self.records, strict=True):
            if record.negative is None:
                row[:] = closed
            else:
                row[[column[label] for label in record.negative if label in column]] = NEGATIVE
            row[[column[label] for label in record.positive if label in column]] = POSITIVE
        return targets
