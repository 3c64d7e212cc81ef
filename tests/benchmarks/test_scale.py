"""Plans are arithmetic, and batches are played through as the driver waits for them."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("scale")


@pytest.fixture
def rates(scale: ModuleType):
    return scale.Rates(
        encode=10, decode=50, take=1000, retag=20_000, give=100_000, image_bytes=100_000
    )


def test_even_batches_take_what_they_take(scale) -> None:
    for workers, batches in ((1, 7), (4, 40), (4, 41), (3, 2)):
        played = scale.play(workers, [2.0] * batches, 4 * workers)
        assert played == pytest.approx(2.0 * math.ceil(batches / workers))
    assert scale.play(5, [1.0] * 30, 1) == pytest.approx(30)  # one under way: one after another
    assert scale.play(2, [], 8) == 0


def test_a_slow_batch_holds_up_no_more_than_the_window(scale) -> None:
    durations = [100.0] + [1.0] * 400
    assert scale.play(2, durations, 1000) == pytest.approx(250, abs=1)  # others go on meanwhile
    assert scale.play(2, durations, 8) == pytest.approx(100 + (400 - 7) / 2, abs=2)


def test_a_worker_that_dies_costs_its_batch_and_its_restart(scale) -> None:
    assert scale.play(1, [10.0] * 3, 4, [(14.0, 0)], restart=30) == pytest.approx(10 + 34 + 20)
    # while it is away the other one works, as far as the window goes
    alone = scale.play(2, [10.0] * 60, 60, [(5.0, 0)], restart=35)
    assert alone == pytest.approx((60 * 10 + 40) / 2, abs=10)
    assert scale.play(2, [10.0] * 60, 60, [(1e9, 0)], restart=35) == pytest.approx(300)


def test_decoding_and_encoding_share_cores_or_do_not(scale, rates) -> None:
    shared = scale.worker_rate(rates, scale.Job(1, 1, cores=2))
    assert shared == pytest.approx(2 / (2 / 10 + 1 / 50))
    assert scale.worker_rate(rates, scale.Job(1, 1, decode_cores=4)) == 10
    fast = scale.replace(rates, encode=1000)
    assert scale.worker_rate(fast, scale.Job(1, 1, decode_cores=4)) == 200


def test_the_slowest_stage_sets_the_hours(scale, rates) -> None:
    job = scale.Job(3.6e6, 10, decode_cores=4, spread=0)
    plan = scale.plan_index(rates, job)
    assert (plan.bottleneck, plan.failures) == ("workers", 0)
    assert plan.efficiency == pytest.approx(1)
    assert plan.hours == pytest.approx(3.6e6 / 100 / 3600)
    assert plan.cost == plan.worker_hours == pytest.approx(10 * plan.hours)
    assert plan.read == pytest.approx(3.6e11)
    assert plan.written == pytest.approx(3.6e6 * (12 * 512 * 2 + 33))
    many = scale.plan_index(rates, scale.replace(job, workers=1000))
    assert many.bottleneck == "driver"
    assert many.hours == pytest.approx(1)
    slow = scale.plan_index(rates, scale.replace(job, storage=5e6))
    assert slow.bottleneck == "storage"
    assert slow.hours == pytest.approx(3.6e6 / 50 / 3600)
    retag = scale.plan_retag(rates, scale.replace(job, precision="int8", workers=1))
    assert retag.hours == pytest.approx(3.6e6 / 20_000 / 3600)
    assert retag.read == pytest.approx(3.6e6 * (12 * 512 + 12 * 4 + 33))


def test_failures_cost_what_they_cost(scale, rates) -> None:
    sound = scale.Job(1e9, 100, decode_cores=4)
    plan = scale.plan_index(rates, sound)
    assert 0.9 < plan.efficiency < 1
    frail = scale.plan_index(rates, scale.replace(sound, mtbf=720, restart=60, price=3))
    assert frail.failures == pytest.approx(frail.hours * 100 / 720)
    assert plan.hours < frail.hours < 1.01 * plan.hours
    assert frail.cost == pytest.approx(3 * 100 * frail.hours)
    with pytest.raises(ValueError, match="nothing is ever done"):
        scale.plan_index(rates, scale.replace(sound, mtbf=0.01, restart=3600))


def test_workers_for_a_deadline(scale, rates) -> None:
    job = scale.Job(1e7, 1)
    count = scale.workers_for(rates, job, 24)
    assert scale.plan_index(rates, scale.replace(job, workers=count)).hours <= 24
    assert scale.plan_index(rates, scale.replace(job, workers=count - 1)).hours > 24
    with pytest.raises(ValueError, match="driver lets only"):
        scale.workers_for(rates, job, 0.5)


def test_the_command(tmp_path: Path) -> None:
    measured = {"encode": 10, "decode": 50, "take": 1000, "retag": 20_000, "give": 1e5}
    facts = {"headlines": [[name, f"{rate:,.1f} images/s", ""] for name, rate in measured.items()]}
    (tmp_path / "rates.json").write_text(json.dumps(facts))
    command = [
        sys.executable,
        str(BENCHMARKS / "scale.py"),
        "--rates",
        str(tmp_path / "rates.json"),
    ]
    command += ["--images", "1e6"]
    lacking = subprocess.run(command, capture_output=True, text=True)
    assert lacking.returncode == 2
    assert "--image-bytes" in lacking.stderr
    command += ["--image-bytes", "100000", "--decode-cores", "4", "--spread", "0"]
    done = subprocess.run([*command, "--workers", "10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| hours | 2.8 | 0.0 |" in done.stdout
    assert "| bottleneck | workers | driver |" in done.stdout
    faster = subprocess.run([*command, "--hours", "1"], capture_output=True, text=True)
    assert "| workers | 28 | 28 |" in faster.stdout
    wrong = subprocess.run([*command, "--encode", "0"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--encode is 0" in wrong.stderr
