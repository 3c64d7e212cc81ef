"""What filling an archive did, and where its time went."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ovml_deploy.pipelines.archives.quantized import Loss

#: Called with how many images were read, and how many of them failed.
IndexProgress = Callable[[int, int], None]


@dataclass
class Stages:
    """Seconds in which the engine computed, waited for images, and waited for all else.

    The three make up the whole run (but for measuring the loss, once an archive), so the greatest
    names what to improve. On a cluster they are the driver's: waiting for batches, waiting for
    images, and the rest.
    """

    encoding: float = 0.0
    decoding: float = 0.0
    storing: float = 0.0

    @property
    def engine_share(self) -> float:
        """Which part of the time the engine computed: how close the run came to its own rate."""
        return self.encoding / max(self.encoding + self.decoding + self.storing, 1e-9)

    @property
    def bottleneck(self) -> str:
        """The stage that took longest: "encoding", "decoding" or "storing"."""
        return max(vars(self), key=lambda name: getattr(self, name))


@dataclass
class IndexReport:
    """What a run of :func:`index` did.

    ``added`` images of new content, ``copies`` of content that was there, ``skipped`` names that
    were there already, ``failed`` ones with their reasons in ``errors.jsonl``; ``loss`` of storing.
    """

    added: int = 0
    copies: int = 0
    skipped: int = 0
    failed: int = 0
    loss: Loss | None = None
    stages: Stages = field(default_factory=Stages)
