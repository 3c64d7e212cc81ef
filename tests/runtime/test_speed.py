"""What runs a bundle here is timed in turns, and what is not to be used is not timed."""

from pathlib import Path

import pytest

from ovml_deploy.runtime import speed
from ovml_deploy.runtime.backends import candidates, create_backend
from ovml_deploy.runtime.bundle import Bundle
from ovml_deploy.runtime.speed import measure_speeds
from ovml_deploy.runtime.verified import IMAGES, record

pytestmark = pytest.mark.usefixtures("own_cache")


def test_all_that_work_are_timed_the_fastest_first(bundle_copy: Path, monkeypatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0.1)
    found = measure_speeds(Bundle.open(bundle_copy))
    assert {(s.device, s.precision) for s in found} == {*candidates()}
    timed = [s for s in found if s.refused is None]
    assert timed == found[: len(timed)]
    assert ("cpu", "fp32") in [(s.device, s.precision) for s in timed]
    assert [s.milliseconds[8] for s in timed] == sorted(s.milliseconds[8] for s in timed)
    for one in timed:
        assert [*one.milliseconds] == [1, 8]
        assert min(one.milliseconds.values()) > 0
        assert one.description == create_backend(one.device, one.precision).description


def test_what_failed_is_not_timed(bundle_copy: Path, monkeypatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0.1)
    bundle = Bundle.open(bundle_copy)
    record(bundle, create_backend("cpu"), IMAGES, {}, ["tags differ"])
    found = measure_speeds(bundle)
    assert {(s.device, s.precision) for s in found} == {*candidates()}
    (cpu,) = [s for s in found if s.device == "cpu"]
    assert "tags differ" in str(cpu.refused)
    assert cpu.milliseconds == {}
