"""Labels -> prompts, and the prompts' features -> label embeddings: by templates, or learned tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from ovml_deploy.errors import LabelError
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.learned_tokens import BRANCHES, LearnedTokens, check_length
from ovml_deploy.runtime.tuned_labels import TunedLabels
from ovml_deploy.templates import fill

#: Texts -> rows of token ids, ends included.
Tokenize = Callable[[Sequence[str]], list[list[int]]]


class Prompts(Protocol):
    """How a kind of head makes label embeddings. ``groups``: of those labels that name one."""

    def known(self, labels: Sequence[str], groups: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return the embeddings that need no prompt. Raises LabelError for impossible groups."""
        ...

    def token_ids(self, labels: Sequence[str], groups: Mapping[str, str]) -> list[list[int]]:
        """Return the rows of ids of all prompts, label by label. Raises LabelError."""
        ...

    def one_prompt(self, labels: Sequence[str], groups: Mapping[str, str]) -> list[list[int]]:
        """Return the ids of one prompt of each label, always the same one. Raises LabelError."""
        ...

    def merge(self, features: np.ndarray) -> np.ndarray:
        """Text features ``[K, P, D]`` of each label's P prompts -> label embeddings, a row each."""
        ...


def prompts_of(bundle: Bundle, tokenize: Tokenize) -> Prompts:
    """Return how a bundle's head makes label embeddings. Raises BundleError for damaged files."""
    if bundle.learned_tokens is None:
        return TemplatePool(bundle, tokenize)
    return LearnedPrompts(bundle, bundle.learned_tokens, tokenize)


class TemplatePool:
    """A label in every template; its embedding ``[D]`` is their mean (QKS, zero-shot)."""

    def __init__(self, bundle: Bundle, tokenize: Tokenize) -> None:
        self._head = bundle.head
        self._templates = bundle.templates
        self._normalises = bundle.normalises_labels
        self._tokenize = tokenize

    def known(self, labels: Sequence[str], groups: Mapping[str, str]) -> dict[str, np.ndarray]:
        """None. Raises LabelError for any group."""
        for label, group in groups.items():
            raise LabelError(
                f"{label!r} names the group {group!r}, but this {self._head} model has no groups of "
                "labels. Leave it away."
            )
        return {}

    def token_ids(self, labels: Sequence[str], groups: Mapping[str, str]) -> list[list[int]]:
        """Return the ids of each label in each template."""
        return self._tokenize([fill(t, label) for label in labels for t in self._templates])

    def one_prompt(self, labels: Sequence[str], groups: Mapping[str, str]) -> list[list[int]]:
        """Return the ids of each label in the shortest template, which cuts off the least."""
        template = min(self._templates, key=len)
        return self._tokenize([fill(template, label) for label in labels])

    def merge(self, features: np.ndarray) -> np.ndarray:
        """Return means ``[K, D]``; for some heads of unit-norm features, brought to unit norm."""
        mean = (_unit(features) if self._normalises else features).mean(axis=1)
        return _unit(mean) if self._normalises else mean


class LearnedPrompts:
    """A label behind learned tokens, in a global and a local prompt (arXiv 2403.01209).

    Tuned labels have tokens of their own, so their embeddings are stored; others make do with the
    shared tokens, and with those of the group that they name.
    """

    def __init__(self, bundle: Bundle, tokens: LearnedTokens, tokenize: Tokenize) -> None:
        self._tokens = tokens
        self._tokenize = tokenize
        (self._template,) = bundle.templates[:1]
        self._text = bundle.text
        self._tuned = TunedLabels.read(bundle)
        self._row_of = {label: row for row, label in enumerate(self._tuned.group_of)}

    def known(self, labels: Sequence[str], groups: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return the embeddings of tuned labels.

        Raises LabelError for an unknown group, and for a tuned label that names another than its own.
        """
        for label, group in groups.items():
            self._tokens.check_group(group)
            own = self._tuned.group_of.get(label, group)
            if group != own:
                raise LabelError(
                    f"{label!r} was tuned in the group {own!r}, so it cannot be in {group!r}. Name no "
                    "group for it."
                )
        rows = self._row_of
        return {label: self._tuned.embeddings[rows[label]] for label in labels if label in rows}

    def token_ids(self, labels: Sequence[str], groups: Mapping[str, str]) -> list[list[int]]:
        """Return the ids of each label's global and local prompt.

        Raises LabelError where a prompt is longer than the text tower reads.
        """
        names = self._tokenize([fill(self._template, label) for label in labels])
        prompts = []
        for label, name in zip(labels, names, strict=True):
            for branch in range(len(BRANCHES)):
                prompts.append(self._tokens.prompt(name, branch, groups.get(label)))
                check_length(label, prompts[-1], self._text.context_length)
        return prompts

    def one_prompt(self, labels: Sequence[str], groups: Mapping[str, str]) -> list[list[int]]:
        """Return the ids of each label's global prompt."""
        return self.token_ids(labels, groups)[:: len(BRANCHES)]

    def merge(self, features: np.ndarray) -> np.ndarray:
        """Return ``[K, 2 * D]``: the unit-norm features of both prompts, in a row."""
        return _unit(features).reshape(len(features), -1)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
