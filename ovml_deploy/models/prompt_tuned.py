"""The prompt-tuned head: hierarchical prompts, learned from text alone.

Source: "Data-free Multi-label Image Recognition via LLM-powered Prompt Tuning", arXiv 2403.01209;
its two branches and their formulas are those of TaI-DPT, arXiv 2211.12739.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovml_deploy.errors import CheckpointError
from ovml_deploy.models.heads import Head
from ovml_deploy.runtime.learned_tokens import BRANCHES, LearnedTokens, check_length
from ovml_deploy.templates import fill

if TYPE_CHECKING:
    from ovml_deploy.models.backbone import Backbone

#: Which branches make the logits.
BRANCH_CHOICES = ("both", *BRANCHES)

_PROMPTS_AT_ONCE = 128
_INIT_STD = 0.02
_START = "a photo of"


@dataclass(frozen=True)
class PromptConfig:
    """Sizes and settings of a prompt-tuned head. Raises ValueError.

    ``labels``: the tuned labels; ``group_of`` gives for each the index of its group in ``groups``.
    ``shared``, ``grouped``, ``specific``: tokens of a prompt that all labels, those of its group, and
    no others share. ``image_width``, ``text_width``: W of the image tokens and of the text tower's
    token table; ``positions``: N, the local features of an image. ``scale`` and ``temperature`` are
    the papers' s and tau at test time; s changes no order, and makes softmax scores what zero-shot's
    are where it is the backbone's own.
    """

    embed_dim: int
    image_width: int
    text_width: int
    positions: int
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    group_of: tuple[int, ...]
    shared: int = 4
    grouped: int = 3
    specific: int = 1
    scale: float = 4.0
    temperature: float = 40.0
    branches: str = "both"

    def __post_init__(self) -> None:
        if len(self.group_of) != len(self.labels) or not self.labels:
            raise ValueError(f"{len(self.labels)} labels with {len(self.group_of)} groups")
        if len(set(self.labels)) != len(self.labels) or len(set(self.groups)) != len(self.groups):
            raise ValueError("a label or a group occurs twice")
        if not all(0 <= group < len(self.groups) for group in self.group_of):
            raise ValueError(f"a label of none of the {len(self.groups)} groups")
        tokens = (self.shared, self.grouped, self.specific)
        if min(tokens) < 0 or not any(tokens):
            raise ValueError(
                f"{tokens} shared, grouped and specific tokens; at least one is needed"
            )
        if self.branches not in BRANCH_CHOICES:
            raise ValueError(f"branches {self.branches!r}, which are none of {BRANCH_CHOICES}")

    @classmethod
    def for_backbone(cls, backbone: "Backbone", **others: Any) -> "PromptConfig":
        """Return a configuration with the sizes of a backbone."""
        return cls(
            embed_dim=backbone.embed_dim,
            image_width=backbone.width,
            text_width=backbone.text.token_embedding.embedding_dim,
            positions=backbone.positions,
            **others,
        )


class PromptTunedHead(Head):
    """Image tokens ``[B, 1 + N, W]`` -> one global and N local features; each meets its own prompts.

    The backbone stays as it is: all that is learned are rows of tokens in front of a label's name.
    """

    kind = "prompt-tuned"
    consumes = "tokens"
    activation = "softmax"
    normalises_labels = True
    label_parts = len(BRANCHES)

    projection: Tensor

    def __init__(self, config: PromptConfig, projection: Tensor | None = None) -> None:
        """Start from random tokens; ``projection [W, D]`` takes image tokens to the text features."""
        super().__init__()
        self.config = config
        width, branches = config.text_width, len(BRANCHES)
        self.shared = nn.Parameter(torch.empty(branches, config.shared, width))
        self.grouped = nn.Parameter(
            torch.empty(branches, len(config.groups), config.grouped, width)
        )
        self.specific = nn.Parameter(
            torch.empty(branches, len(config.labels), config.specific, width)
        )
        for tokens in self.parameters():
            nn.init.normal_(tokens, std=_INIT_STD)
        if projection is None:
            projection = torch.empty(config.image_width, config.embed_dim)
        self.register_buffer("projection", projection)

    @torch.no_grad()
    def start_from_words(self, backbone: "Backbone") -> None:
        """Let shared and group tokens say "a photo of a photo of a", and a label's own its name.

        So the untrained prompts read as prompts do; random tokens would be noise to the text tower.
        """
        table, config = backbone.text.token_embedding.weight, self.config
        phrase, *names = (table[ids] for ids in backbone.word_ids([_START, *config.labels]))
        turns = torch.arange(config.shared + config.grouped) % len(phrase)
        self.shared.copy_(phrase[turns[: config.shared]])
        self.grouped.copy_(phrase[turns[config.shared :]])
        self.specific.copy_(torch.stack([name.mean(dim=0) for name in names]).unsqueeze(1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return unit-norm features ``[B, 1 + N, D]``, the global one first."""
        return F.normalize(tokens @ self.projection, dim=-1)

    @property
    def features_per_image(self) -> int:
        """One global feature, and one for each position."""
        return 1 + self.config.positions

    def match(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the feature of the position that weighs most, both ``[B, K]``.

        ``features`` is ``[B, 1 + N, D]``, ``labels`` ``[K, 2 * D]``. The logit is the mean of the
        global and the local one.
        """
        found = self.outputs(features, labels)
        return found["logits"], found["winners"]

    def outputs(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return logits, winners, and the logits of either branch alone, all ``[B, K]``."""
        config = self.config
        whole, parts = labels.chunk(len(BRANCHES), dim=1)
        cosines = features[:, 1:] @ parts.T
        alone = {
            "global": config.scale * (features[:, 0] @ whole.T),
            "local": local_logits(cosines, config.scale, config.temperature),
        }
        merged = (alone["global"] + alone["local"]) / 2
        return {
            "logits": alone.get(config.branches, merged),
            "winners": cosines.argmax(dim=1) + 1,
            "global_logits": alone["global"],
            "local_logits": alone["local"],
        }

    def rows(self) -> Tensor:
        """Return all learned tokens ``[R, W]``, in the order of :meth:`learned_tokens`, then specific."""
        branches = [
            part.reshape(-1, self.config.text_width)
            for shared, grouped in zip(self.shared, self.grouped, strict=True)
            for part in (shared, grouped)
        ]
        return torch.cat([*branches, self.specific.reshape(-1, self.config.text_width)])

    def learned_tokens(self, backbone: "Backbone") -> LearnedTokens:
        """Say where shared and grouped tokens stand in the prompts of a backbone."""
        config = self.config
        return LearnedTokens(
            first_id=backbone.text.token_embedding.num_embeddings,
            lead=backbone.lead_tokens,
            shared=config.shared,
            grouped=config.grouped,
            groups=config.groups,
        )

    def prompts(
        self,
        backbone: "Backbone",
        labels: Sequence[str],
        template: str,
        groups: Mapping[str, str] | None = None,
    ) -> list[list[int]]:
        """Return token ids of the prompts of each label: the global one, then the local one.

        A label that was not tuned has no tokens of its own; its group is the one in ``groups``, if
        any. Raises LabelError for an unknown group, or where a prompt exceeds the text tower.
        """
        tokens, named = self.learned_tokens(backbone), groups or {}
        tuned = {label: index for index, label in enumerate(self.config.labels)}
        prompts = []
        names = backbone.token_ids([fill(template, label) for label in labels])
        for label, name in zip(labels, names, strict=True):
            index = tuned.get(label)
            group = named.get(label) if index is None else self._group(index)
            for branch in range(len(BRANCHES)):
                own = () if index is None else self._own_ids(tokens, branch, index)
                prompts.append(tokens.prompt(name, branch, group, own))
                check_length(label, prompts[-1], backbone.text.context_length)
        return prompts

    def encode_prompts(self, backbone: "Backbone", prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return label embeddings ``[K, 2 * D]`` of ``2 * K`` prompts, with gradients."""
        ids = backbone.pad(prompts)
        features = backbone.text(*backbone.text.trim(ids), rows=self.rows())
        return F.normalize(features, dim=-1).unflatten(0, (-1, len(BRANCHES))).flatten(1)

    @torch.no_grad()
    def embed_labels(
        self,
        backbone: "Backbone",
        labels: Sequence[str],
        templates: Sequence[str],
        groups: Mapping[str, str] | None = None,
    ) -> Tensor:
        """Return label embeddings ``[K, 2 * D]``: the features of a label's two prompts.

        ``groups``: the group of labels that were not tuned. Raises as :meth:`prompts`.
        """
        prompts = self.prompts(backbone, labels, templates[0], groups)
        parts = [
            self.encode_prompts(backbone, prompts[start : start + _PROMPTS_AT_ONCE])
            for start in range(0, len(prompts), _PROMPTS_AT_ONCE)
        ]
        return torch.cat(parts)

    def check_fits(self, backbone: "Backbone") -> None:
        """Raise CheckpointError where the head was made for a backbone of other sizes."""
        config = self.config
        ours = (config.image_width, config.embed_dim, config.text_width)
        table = backbone.text.token_embedding
        theirs = (backbone.width, backbone.embed_dim, table.embedding_dim)
        if ours != theirs:
            raise CheckpointError(
                f"The prompts were tuned for image tokens of width {ours[0]}, {ours[1]} dimensions and "
                f"text tokens of width {ours[2]}, but the backbone {backbone.spec.name!r} has "
                f"{theirs[0]}, {theirs[1]} and {theirs[2]}. Name the backbone it was tuned on with "
                "--backbone."
            )

    def settings(self) -> dict[str, Any]:
        """Return the configuration as plain values, for a checkpoint."""
        return asdict(self.config)

    def _group(self, index: int) -> str:
        return self.config.groups[self.config.group_of[index]]

    def _own_ids(self, tokens: LearnedTokens, branch: int, index: int) -> range:
        first = tokens.first_id + tokens.count
        first += (branch * len(self.config.labels) + index) * self.config.specific
        return range(first, first + self.config.specific)


def local_logits(
    cosines: Tensor, scale: float, temperature: float, real: Tensor | None = None
) -> Tensor:
    """Return ``[B, K]``, the sum over positions of softmax(tau * cos) * s * cos, of ``[B, N, K]``.

    ``real [B, N]`` says which positions count (default: all). Source: arXiv 2211.12739, section 3.
    """
    weights = temperature * cosines
    if real is not None:
        weights = weights.masked_fill(~real.unsqueeze(-1), float("-inf"))
    return scale * (torch.softmax(weights, dim=1) * cosines).sum(dim=1)
