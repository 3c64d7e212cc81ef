"""Where an encoder's time goes in OpenVINO: by kind of node, after fusion.

python benchmarks/nodes.py [--engine build/qks] [--precision bf16] [--batch 1,8] [--calls 10] [--write]
"""

import argparse
from collections import Counter

import numpy as np
from report import Report, add_write

from ovml_deploy import assets
from ovml_deploy.runtime.bundle import ENCODER
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.runtime.telemetry import import_openvino
from ovml_deploy.runtime.threads import available_cpus

_SHOWN = 8  # kinds; the rest is summed up


def measure(engine: Engine, batch: int, calls: int) -> tuple[Counter[str], Counter[str]]:
    """Return milliseconds a call, and how many nodes, by kind and what they compute in."""
    settings = {
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp16": "f16"}.get(
            engine.backend.precision, "f32"
        ),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": available_cpus(),
        "PERF_COUNT": True,
    }
    openvino = import_openvino()
    compiled = openvino.Core().compile_model(engine.bundle.file(ENCODER), "CPU", settings)
    request = compiled.create_infer_request()
    shape = (batch, *engine.bundle.preprocessing.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    taken: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for call in range(calls + 2):
        request.infer({"pixels": pixels})
        if call < 2:  # they warm up
            continue
        for node in request.profiling_info:
            if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                kind = f"{node.node_type}, {node.exec_type}"
                taken[kind] += 1e3 * node.real_time.total_seconds() / calls
                nodes[kind] += 1
    return taken, Counter({kind: count // calls for kind, count in nodes.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=str(assets.MINI))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--calls", type=int, default=10)
    add_write(parser)
    given = parser.parse_args()
    engine = Engine.open(given.engine, "openvino", given.precision)
    report = Report(f"Nodes, {engine.bundle.path.name}", engine)
    for batch in map(int, given.batch.split(",")):
        taken, nodes = measure(engine, batch, given.calls)
        whole = sum(taken.values())
        rows = [["kind, as computed", "nodes", "ms", "share"]]
        for kind, value in taken.most_common(_SHOWN):
            rows.append([kind, str(nodes[kind]), f"{value:.2f}", f"{value / whole:.1%}"])
        others = [kind for kind, _ in taken.most_common()[_SHOWN:]]
        rest = sum(taken[kind] for kind in others)
        count = sum(nodes[kind] for kind in others)
        rows.append(["all others", str(count), f"{rest:.2f}", f"{rest / whole:.1%}"])
        report.table(f"batch {batch}: {whole:.1f} ms in nodes", rows)
        ((most, value),) = taken.most_common(1)
        report.headline(f"nodes, batch {batch}", f"{value:.1f} ms", f"{most}: {value / whole:.0%}")
    report.write(given.write)


if __name__ == "__main__":
    main()
