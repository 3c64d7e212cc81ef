"""A backbone and a head: the whole tagger in PyTorch, the reference every export is held to."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ovml_deploy.errors import CheckpointError, LabelError
from ovml_deploy.models.backbone import Backbone
from ovml_deploy.models.heads import Head


class TaggingModel(nn.Module):
    """Encodes images and labels, and matches them."""

    def __init__(self, backbone: Backbone, head: Head, templates: Sequence[str]):
        super().__init__()
        if not templates:
            raise CheckpointError("The prompt pool is empty; give at least one template.")
        for template in templates:
            if template.count("{}") != 1:
                raise CheckpointError(f"The template {template!r} needs exactly one '{{}}'.")
        self.backbone = backbone
        self.head = head
        self.templates = tuple(templates)
        #: Named label lists that came with the checkpoint: "seen" and "unseen" in training.
        self.labels: Mapping[str, Sequence[str]] = {}

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 pixels ``[B, H, W, 3]`` -> features ``[B, M, D]``."""
        images = self.backbone.normalise(pixels)
        if self.head.consumes == "tokens":
            return self.head(self.backbone.image_tokens(images))
        return self.head(self.backbone.pooled(images))

    @property
    def attention_grid(self) -> tuple[int, int] | None:
        """How many rows and columns of places the features look at; None where they do not tell.

        None, too, for a tower whose places are no grid of the image's shape.
        """
        if not self.head.looks:
            return None
        (height, width), places = self.backbone.preprocessing.size, self.backbone.positions
        rows = round((places * height / width) ** 0.5)
        columns = round((places * width / height) ** 0.5)
        return (rows, columns) if rows * columns == places else None

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pixels ``[B, H, W, 3]`` -> features ``[B, M, D]``, attention ``[B, M, h, w]``.

        Attention is how much each feature is taken from each place of ``attention_grid``; what is
        missing from a sum of 1 was taken from the token of the whole image. Raises
        CheckpointError where there is no grid.
        """
        grid = self.attention_grid
        if grid is None:
            raise CheckpointError(
                f"A {self.head.kind} model on {self.backbone.spec.name!r} does not tell where it "
                "looks; a QKS model does."
            )
        tokens = self.backbone.image_tokens(self.backbone.normalise(pixels))
        features, looked = self.head.look(tokens)
        return features, looked[:, :, 1:].unflatten(-1, grid)

    def match(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, M, D]``, label embeddings -> logits and winners ``[B, K]``."""
        return self.head.match(features, labels)

    def embed_labels(
        self, labels: Sequence[str], groups: Mapping[str, str] | None = None
    ) -> Tensor:
        """Return label embeddings, as the head makes them: ``[K, D]``, or more parts of D.

        ``groups``: the groups of labels that a prompt-tuned head was not tuned for. Raises
        LabelError where there are no labels, or a group is unknown.
        """
        if not labels:
            raise LabelError("There are no labels to embed; give at least one.")
        return self.head.embed_labels(self.backbone, labels, self.templates, groups)
