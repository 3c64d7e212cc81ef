"""Labels that a model cannot tell apart, or does not know: found by the token ids of their prompts."""

import hashlib
import logging
import unicodedata
from array import array
from collections.abc import Mapping, Sequence

from ovml_deploy.errors import LabelError
from ovml_deploy.runtime.iteration import batches
from ovml_deploy.runtime.label_cache import LabelCache
from ovml_deploy.runtime.labels import Places, listed
from ovml_deploy.runtime.prompt_tokenizer import PromptTokenizer
from ovml_deploy.runtime.prompts import Prompts

logger = logging.getLogger(__name__)

_LABELS_AT_ONCE = 1024
_DIGEST_BYTES = 8
_KNOWN, _UNKNOWN = b"\0", b"\1"
_MARK_BYTES = len(_KNOWN) + _DIGEST_BYTES


class LabelTokens:
    """Finds labels whose prompts have the same token ids, and labels of unknown tokens only.

    It compares a mark of 9 bytes for each label: whether the tokenizer knows any part of it, and a
    digest of the ids of one of its prompts. The cache keeps marks, so that a label in the cache is
    not tokenized again. Labels with the same mark are compared by the ids of all their prompts.
    """

    def __init__(self, prompts: Prompts, tokenizer: PromptTokenizer) -> None:
        self._prompts = prompts
        self._tokenizer = tokenizer

    def check(
        self,
        labels: Sequence[str],
        groups: Mapping[str, str],
        places: Places,
        cache: LabelCache | None,
        allow_same: bool = False,
    ) -> None:
        """Raise LabelError that lists all labels with the same prompts; warn of unknown labels.

        ``allow_same``: warn of the labels with the same prompts, too. Labels whose embeddings are
        stored (``Prompts.known``) have prompts of their own, and are passed over.
        """
        stored = self._prompts.known(labels, groups)
        own = [label for label in labels if label not in stored] if stored else labels
        marks = self._marks(own, groups, cache)
        if len({*marks.values()}) == len(marks) and not any(mark[0] for mark in marks.values()):
            return
        position = {label: number for number, label in enumerate(labels, start=1)}
        file = f"{places.source}: " if places.source else ""

        def name_set(some: Sequence[str]) -> str:
            at = ", ".join(str(places.number(position[label])) for label in some)
            unknown = "; unknown to the tokenizer" if marks[some[0]][:1] == _UNKNOWN else ""
            return f"{places.unit}s {at} ({_quoted(some)}{unknown})"

        if same := self._same(marks, groups):
            message = (
                f"{file}The model cannot tell these labels apart, because their prompts have the same "
                f"token ids: {listed([name_set(some) for some in same])}. Keep one of each."
            )
            if not allow_same:
                raise LabelError(message)
            logger.warning("%s", message)
        if unknown := [label for label, mark in marks.items() if mark[:1] == _UNKNOWN]:
            shown = listed([f"{label!r} ({places.name(position[label])})" for label in unknown])
            logger.warning(
                "%sThe tokenizer does not know any part of these labels, so their scores mean "
                "nothing: %s. Write them in a language that the model was trained in.",
                file,
                shown,
            )

    def _marks(
        self, labels: Sequence[str], groups: Mapping[str, str], cache: LabelCache | None
    ) -> dict[str, bytes]:
        """Return the marks of labels, in order; those that are not in the cache are put there."""
        found: dict[str, bytes] = {}
        if cache is not None:
            label_of = {cache_key(label, groups): label for label in labels} if groups else {}
            kept = cache.marks([*label_of] if groups else labels).items()
            found = {
                label_of.get(key, key): mark
                for key, mark in kept
                if type(mark) is bytes and len(mark) == _MARK_BYTES
            }
        missing = [label for label in labels if label not in found]
        for some in batches(missing, _LABELS_AT_ONCE):
            fresh = self._make_marks(some, groups)
            if cache is not None:
                cache.put_marks({cache_key(label, groups): mark for label, mark in fresh.items()})
            found |= fresh
        return {label: found[label] for label in labels}

    def _make_marks(self, labels: Sequence[str], groups: Mapping[str, str]) -> dict[str, bytes]:
        rows = self._prompts.one_prompt(labels, groups)
        unknown_id, empty_ids = self._tokenizer.unknown_id, self._tokenizer.empty_ids
        doubtful = [
            label
            for label, row in zip(labels, rows, strict=True)
            if unknown_id in row or not any(map(str.isalnum, label))
        ]
        alone = zip(doubtful, self._tokenizer(doubtful) if doubtful else (), strict=True)
        unknown = {label for label, ids in alone if empty_ids.issuperset(ids)}
        return {
            label: (_UNKNOWN if label in unknown else _KNOWN)
            + hashlib.blake2b(array("q", row).tobytes(), digest_size=_DIGEST_BYTES).digest()
            for label, row in zip(labels, rows, strict=True)
        }

    def _same(self, marks: Mapping[str, bytes], groups: Mapping[str, str]) -> list[list[str]]:
        """Return the labels that have the same ids in all prompts, set by set."""
        by_mark: dict[bytes, list[str]] = {}
        for label, mark in marks.items():
            by_mark.setdefault(mark, []).append(label)
        sets: dict[tuple[tuple[int, ...], ...], list[str]] = {}
        for some in by_mark.values():
            if len(some) == 1:
                continue
            rows = self._prompts.token_ids(some, groups)
            for label, own in zip(some, batches(rows, len(rows) // len(some)), strict=True):
                sets.setdefault(tuple(map(tuple, own)), []).append(label)
        return [found for found in sets.values() if len(found) > 1]


def _quoted(labels: Sequence[str]) -> str:
    """Return labels in quotation marks; with escapes where they may look alike."""
    forms = {unicodedata.normalize("NFKC", label) for label in labels}
    return ", ".join(map(repr if len(forms) == len(labels) else ascii, labels))


def cache_key(label: str, groups: Mapping[str, str]) -> str:
    """Return the cache key of a label: ``label`` or ``label<TAB>group``."""
    return f"{label}\t{groups[label]}" if label in groups else label
