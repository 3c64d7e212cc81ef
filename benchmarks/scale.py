"""Sizes a job on a cluster on paper: hours, machines, terabytes, cost, and which stage holds it up.

    python benchmarks/scale.py --images 1e9 --workers 64 [--rates benchmarks/results/scale.json]
                               [--price 1 --mtbf 720 --restart 60] [--encode 10 --cores 2 ...]
    python benchmarks/scale.py --images 1e9 --hours 168      # how many workers would do it in a week

Rates come from what ``scale_rates.py`` measured (``--rates``), and from flags, which win. A worker decodes
and encodes on the same cores, unless ``--decode-cores`` gives decoding cores of its own, as beside a GPU.
Batches are then played through in the order in which the driver waits for them (``play``), to see what
uneven workers and failures cost. Prices are in whatever unit is given, an hour of a worker.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tables import Rows, show

RATES = Path(__file__).parent / "results" / "scale.json"
_PLAYED = 20_000  # batches that are played through, whatever the number of images
_HOUR = 3600.0
#: What a row has beside its features: path, digest, and Parquet's own (docs/archives.md).
_BESIDE = 33


@dataclass(frozen=True)
class Rates:
    """What was measured: images a second, and bytes an image.

    ``encode``: of a worker's engine on ready pixels; ``decode``: of one core; ``take``, ``give``: that
    the driver can store, and write the tags of; ``retag``: of a worker.
    """

    encode: float
    decode: float
    take: float
    retag: float
    give: float
    image_bytes: float


@dataclass(frozen=True)
class Job:
    """What is to be done, and with what.

    ``storage``: bytes a second that all workers together can read, 0 for no limit. ``mtbf`` and
    ``restart``: hours between a worker's failures, 0 for none, and seconds until it works again.
    ``spread``: by how much the time of one batch differs from the next, of their mean.
    """

    images: float
    workers: int
    cores: int = 2
    decode_cores: int = 0
    queries: int = 12
    dims: int = 512
    precision: str = "fp16"
    batch: int = 8
    storage: float = 0.0
    price: float = 1.0
    mtbf: float = 0.0
    restart: float = 60.0
    spread: float = 0.1

    def __post_init__(self) -> None:
        for name in ("images", "workers", "cores", "queries", "dims", "batch"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} is {getattr(self, name):g}; it must be more than 0.")
        for name in ("decode_cores", "storage", "price", "mtbf", "restart", "spread"):
            if not 0 <= getattr(self, name) < math.inf:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, name):g}; it must be 0 or more.")
        if self.spread > 0.5:
            raise ValueError(f"--spread is {self.spread:g}; it is at most 0.5.")
        if self.precision not in ("fp16", "int8"):
            raise ValueError(f"--precision is {self.precision!r}; it is fp16 or int8.")

    @property
    def row_bytes(self) -> float:
        """Bytes of an image's row in the archive."""
        each = self.queries * self.dims
        return (2 * each if self.precision == "fp16" else each + 4 * self.queries) + _BESIDE


@dataclass(frozen=True)
class Plan:
    """``rates``: images a second of each stage, were it alone; the rest is of the whole job."""

    rates: dict[str, float]
    efficiency: float
    failures: float
    hours: float
    worker_hours: float
    cost: float
    read: float
    written: float

    @property
    def bottleneck(self) -> str:
        """The slowest stage."""
        return min(self.rates, key=lambda name: self.rates[name])


def worker_rate(rates: Rates, job: Job) -> float:
    """Return images a second of one worker that decodes and encodes."""
    if job.decode_cores:
        return min(rates.encode, job.decode_cores * rates.decode)
    return job.cores / (job.cores / rates.encode + 1 / rates.decode)


def play(
    workers: int,
    durations: Sequence[float],
    window: int,
    failures: Sequence[tuple[float, int]] = (),
    restart: float = 0.0,
) -> float:
    """Return seconds until all batches are done, in order, with at most ``window`` under way.

    ``durations``: of the batches. ``failures``: when which worker dies; what it was at is done again
    once it is there again, ``restart`` seconds later. A batch goes to the worker that is free first.
    """
    free = [0.0] * workers
    dies: list[list[float]] = [[] for _ in range(workers)]
    for when, worker in sorted(failures, reverse=True):
        dies[worker].append(when)
    done: list[float] = []  # when a batch, and all before it, are there
    for number, seconds in enumerate(durations):
        worker = free.index(min(free))
        start = max(free[worker], done[number - window] if number >= window else 0.0)
        while dies[worker] and dies[worker][-1] < start + seconds:
            start = max(start, dies[worker].pop() + restart)
        free[worker] = start + seconds
        done.append(max(free[worker], done[-1] if done else 0.0))
    return done[-1] if done else 0.0


def efficiency(job: Job, seconds: float) -> tuple[float, float]:
    """Return which part of the workers' time is used without failures, and seconds that one costs.

    ``seconds``: that a batch takes.
    """
    chance = random.Random(0)
    count = max(_PLAYED // job.workers, 40) * job.workers
    low, high = 1 - job.spread * math.sqrt(3), 1 + job.spread * math.sqrt(3)  # of a uniform one
    durations = [seconds * chance.uniform(low, high) for _ in range(count)]
    window = 4 * job.workers
    ideal = sum(durations) / job.workers
    whole = play(job.workers, durations, window)
    middle = [(whole / 2, 0)]
    lost = play(job.workers, durations, window, middle, job.restart) - whole
    return ideal / whole, max(lost, 0.0)


def plan_index(rates: Rates, job: Job) -> Plan:
    """Return what encoding all images takes."""
    each = worker_rate(rates, job)
    stages = {"workers": each * job.workers, "driver": rates.take}
    if job.storage:
        stages["storage"] = job.storage / rates.image_bytes
    return _plan(job, stages, job.batch / each, rates.image_bytes, job.row_bytes)


def plan_retag(rates: Rates, job: Job) -> Plan:
    """Return what tagging the archive with other words takes."""
    stages = {"workers": rates.retag * job.workers, "driver": rates.give}
    if job.storage:
        stages["storage"] = job.storage / job.row_bytes
    return _plan(job, stages, 1024 / rates.retag, job.row_bytes, 0.0)


def _plan(job: Job, stages: dict[str, float], seconds: float, read: float, written: float) -> Plan:
    used, lost = efficiency(job, seconds)
    rates = {**stages, "workers": stages["workers"] * used}
    whole = job.images / min(rates.values())
    failures = job.workers * whole / (job.mtbf * _HOUR) if job.mtbf else 0.0
    # each failure costs time, in which there are more of them
    share = job.workers * lost / (job.mtbf * _HOUR) if job.mtbf else 0.0
    if share >= 1:
        raise ValueError(
            f"Workers die every {job.mtbf:g} hours and {lost:.0f} s are lost each time: with "
            f"{job.workers} of them nothing is ever done."
        )
    hours = whole / (1 - share) / _HOUR
    machine_hours = hours * job.workers
    return Plan(
        rates,
        used * (1 - share),
        failures / (1 - share),
        hours,
        machine_hours,
        machine_hours * job.price,
        job.images * read,
        job.images * written,
    )


def workers_for(rates: Rates, job: Job, hours: float) -> int:
    """Return the fewest workers that encode all images in so many hours. Raises ValueError."""
    few, many = 0, 1
    while (plan := plan_index(rates, replace(job, workers=many))).hours > hours:
        if plan.bottleneck != "workers":
            raise ValueError(
                f"No number of workers does it in {hours:g} hours: {plan.bottleneck} lets only "
                f"{plan.rates[plan.bottleneck]:,.0f} images a second through. Split the job."
            )
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        if plan_index(rates, replace(job, workers=middle)).hours > hours:
            few = middle
        else:
            many = middle
    return many


def table(job: Job, plans: dict[str, Plan]) -> Rows:
    """Return the plans, side by side."""
    rows = [["", *plans], ["workers", *[str(job.workers)] * len(plans)]]

    def row(name: str, form: str, values: list[float]) -> None:
        rows.append([name, *(form.format(value) for value in values)])

    found = [*plans.values()]
    for stage in found[0].rates:
        row(f"{stage}, images/s", "{:,.0f}", [plan.rates[stage] for plan in found])
    rows.append(["bottleneck", *(plan.bottleneck for plan in found)])
    row("hours", "{:,.1f}", [plan.hours for plan in found])
    row("worker hours", "{:,.0f}", [plan.worker_hours for plan in found])
    row("cost, units", "{:,.0f}", [plan.cost for plan in found])
    row("read, TB", "{:,.2f}", [plan.read / 1e12 for plan in found])
    row("features written, TB", "{:,.2f}", [plan.written / 1e12 for plan in found])
    row("workers that die", "{:,.1f}", [plan.failures for plan in found])
    row("of the workers' time used", "{:.1%}", [plan.efficiency for plan in found])
    return rows


def read_rates(path: Path, given: argparse.Namespace) -> Rates:
    """Return measured rates, with those that flags give in their place. Raises ValueError."""
    measured = {}
    if path.exists():
        for name, figure, _ in json.loads(path.read_text("utf-8"))["headlines"]:
            measured[name] = float(figure.split()[0].replace(",", ""))
    values = {}
    for name in Rates.__annotations__:
        flag = getattr(given, name, None)
        value = measured.get(name) if flag is None else flag
        if value is None:
            raise ValueError(
                f"There is no rate for {name!r}: measure it with benchmarks/scale_rates.py --write, or "
                f"give --{name.replace('_', '-')}."
            )
        if value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}; it must be more than 0.")
        values[name] = value
    return Rates(**values)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=float, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--hours", type=float, help="find the workers that do it in so many hours")
    parser.add_argument("--rates", type=Path, default=RATES)
    for name in Rates.__annotations__:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    for name, kind in Job.__annotations__.items():
        if name not in ("images", "workers"):
            default = getattr(Job, name)
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    parser.add_argument("--into", type=Path, help="a document whose table is replaced")
    parser.add_argument("--title", default="plan", help="of the table")
    return parser


def main() -> None:
    parser = arguments()
    given = parser.parse_args()
    try:
        job = Job(**{name: getattr(given, name) for name in Job.__annotations__})
        rates = read_rates(given.rates, given)
        if given.hours is not None:
            job = replace(job, workers=workers_for(rates, job, given.hours))
        plans = {"index": plan_index(rates, job), "retag": plan_retag(rates, job)}
    except ValueError as error:
        parser.error(str(error))
    show(given.title, table(job, plans), given.into)


if __name__ == "__main__":
    main()
