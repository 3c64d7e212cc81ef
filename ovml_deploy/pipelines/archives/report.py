"""What filling an archive did."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ovml_deploy.pipelines.archives.quantized import Loss
from ovml_deploy.pipelines.passed_over import PassedOver
from ovml_deploy.runtime.stages import Stages

#: Called with how many images were read, and how many of them failed.
IndexProgress = Callable[[int, int], None]


@dataclass
class IndexReport:
    """What a run of :func:`index` did.

    ``added`` images of new content, ``copies`` of content that was there, ``skipped`` names that
    were there already, ``failed`` ones with their reasons in ``errors.jsonl``; ``loss`` of storing;
    ``passed_over``: counts of files that were not tried.
    ``stages`` leave out the measuring of that loss; on a cluster they are the driver's: waiting for
    batches, waiting for images, and the rest.
    """

    added: int = 0
    copies: int = 0
    skipped: int = 0
    failed: int = 0
    loss: Loss | None = None
    passed_over: PassedOver = field(default_factory=PassedOver)
    stages: Stages = field(default_factory=Stages)
