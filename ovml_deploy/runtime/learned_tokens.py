"""The learned tokens of a prompt-tuned model: where they stand in a prompt (arXiv 2403.01209)."""

from collections.abc import Sequence
from dataclasses import dataclass

from ovml_deploy.errors import LabelError

#: Each label has one prompt for an image's global feature, and one for its local features.
BRANCHES = ("global", "local")


@dataclass(frozen=True)
class LearnedTokens:
    """Which ids, beyond the text tower's own table, are the learned tokens of which prompt.

    A prompt is: the ``lead`` ids that begin every text, ``shared`` tokens, ``grouped`` tokens if the
    label belongs to one of the ``groups``, the label's name, and the ids that end every text. The
    rows of learned tokens start at ``first_id``: for each branch the shared ones, then each group's.
    """

    first_id: int
    lead: int
    shared: int
    grouped: int
    groups: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of rows, of both branches."""
        return len(BRANCHES) * self._branch_rows

    def prompt(
        self, name_ids: Sequence[int], branch: int, group: str | None, own: Sequence[int] = ()
    ) -> list[int]:
        """Return the ids of a prompt; ``own``: ids of tokens that are only this label's.

        ``name_ids``: the name's ids with lead and end. Raises LabelError for an unknown group.
        """
        start = self.first_id + branch * self._branch_rows
        learned = [*range(start, start + self.shared)]
        if group is not None:
            self.check_group(group)
            first = start + self.shared + self.groups.index(group) * self.grouped
            learned += range(first, first + self.grouped)
        return [*name_ids[: self.lead], *learned, *own, *name_ids[self.lead :]]

    def check_group(self, group: str) -> None:
        """Raise LabelError, listing the groups, for one that there is not."""
        if group not in self.groups:
            raise LabelError(
                f"There is no group {group!r}. The groups of this model are: "
                f"{', '.join(self.groups) or 'none'}."
            )

    @property
    def _branch_rows(self) -> int:
        return self.shared + self.grouped * len(self.groups)


def check_length(label: str, prompt: Sequence[int], context_length: int) -> None:
    """Raise LabelError for a label whose prompt is longer than the text tower reads."""
    if len(prompt) > context_length:
        raise LabelError(
            f"The prompt of {label!r} has {len(prompt)} tokens, learned ones included; the text tower "
            f"reads {context_length}. Shorten the label, or tune with fewer tokens."
        )
