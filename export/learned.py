"""What a prompt-tuned head brings into a bundle besides its graphs: learned tokens, tuned labels."""

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from ovml_deploy.errors import LabelError
from ovml_deploy.models.heads import Head
from ovml_deploy.models.prompt_tuned import PromptTunedHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.runtime.labels import check_labels
from ovml_deploy.runtime.learned_tokens import LearnedTokens
from ovml_deploy.runtime.tuned_labels import TunedLabels

_LABELS = ("cat", "dog", "bicycle", "traffic light", "mountain", "coffee", "violin", "rain")
_TUNED = 4  # of the examples


def learned_tokens(model: TaggingModel) -> LearnedTokens | None:
    """Return where learned tokens stand in prompts; None for a head without any."""
    head = model.head
    return head.learned_tokens(model.backbone) if isinstance(head, PromptTunedHead) else None


def check_groups(model: TaggingModel, groups: Iterable[str]) -> None:
    """Raise LabelError, before hours of work, for groups that the model does not have."""
    tokens = learned_tokens(model)
    for group in groups:
        if tokens is None:
            raise LabelError(f"A {model.head.kind} model has no groups of labels, as {group!r}.")
        tokens.check_group(group)


def learned_rows(model: TaggingModel) -> Tensor | None:
    """Return the tokens ``[R, W]`` that labels of no tuning may use; None where there are none.

    Those of one label only are left out: tuned labels come with their embeddings.
    """
    head, tokens = model.head, learned_tokens(model)
    if not isinstance(head, PromptTunedHead) or tokens is None or not tokens.count:
        return None
    return head.rows()[: tokens.count].detach().clone()


def tuned_labels(model: TaggingModel) -> TunedLabels | None:
    """Return the labels a head was tuned for, embedded by PyTorch; None for other heads.

    Raises LabelError for labels or groups that could not be read again.
    """
    head = model.head
    if not isinstance(head, PromptTunedHead):
        return None
    labels, groups = check_labels(head.config.labels), check_labels(head.config.groups)
    owners = [groups[group] for group in head.config.group_of]
    embeddings = model.embed_labels(head.config.labels).numpy()
    return TunedLabels(
        dict(zip(labels, owners, strict=True)), np.ascontiguousarray(embeddings, dtype=np.float32)
    )


def example_words(head: Head) -> dict[str, str | None]:
    """Return a few labels to compare embeddings by, each with its group, or None.

    For a prompt-tuned head the first three are tuned, of no tuning, and of no tuning in a group.
    """
    if not isinstance(head, PromptTunedHead):
        return dict.fromkeys(_LABELS)
    tuned, groups = head.config.labels, head.config.groups
    new = [label for label in (*_LABELS, "an unknown thing", "a new cat") if label not in tuned]
    return {
        tuned[0]: None,
        new[0]: None,
        new[1]: groups[-1],
        **dict.fromkeys(tuned[1:_TUNED]),
        **dict.fromkeys(new[2:4]),
    }
