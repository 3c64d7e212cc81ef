"""Where the time of a run goes."""

import time
from contextlib import suppress

import pytest

from ovml_deploy.runtime.stages import Stages


def test_blocks_add_to_their_stage_also_when_they_raise() -> None:
    stages = Stages()
    for _ in range(2):
        with suppress(KeyError), stages.timing("decoding"):
            time.sleep(0.02)
            raise KeyError
    assert stages.decoding >= 0.04
    assert (stages.encoding, stages.storing) == (0, 0)


@pytest.mark.parametrize(
    ("stages", "bottleneck", "held_up_by"),
    [
        (Stages(93, 5, 2), "encoding", None),
        (Stages(90, 6, 4), "encoding", "decoding"),
        (Stages(90, 4, 6), "encoding", "storing"),
        (Stages(10, 60, 30), "decoding", "decoding"),
    ],
)
def test_what_the_engine_waited_for_is_named(stages, bottleneck, held_up_by) -> None:
    assert (stages.bottleneck, stages.held_up_by) == (bottleneck, held_up_by)
