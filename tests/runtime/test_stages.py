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
    ("stages", "share", "bottleneck"),
    [
        (Stages(93, 5, 2), 0.93, None),
        (Stages(90, 6, 4), 0.90, "decoding"),
        (Stages(90, 4, 6), 0.90, "storing"),
        (Stages(10, 60, 30), 0.10, "decoding"),
        (Stages(98, 1, 1, beside=30), 0.68, "decoding"),
        (Stages(10, 0, 90, beside=30), 0.0, "storing"),
        (Stages(), 0.0, "storing"),
    ],
)
def test_what_held_up_the_engine_is_named(stages, share, bottleneck) -> None:
    assert stages.shares["encoding"] == pytest.approx(share)
    assert stages.bottleneck == bottleneck


def test_time_beside_the_engine_is_a_share_of_all_processors(monkeypatch) -> None:
    monkeypatch.setattr("ovml_deploy.runtime.stages.available_cpus", lambda: 4)
    stages = Stages(encoding=10)
    stages.took_beside(8)
    assert stages.shares == {"encoding": 0.8, "decoding": 0.2, "storing": 0}
