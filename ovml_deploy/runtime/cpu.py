"""What this CPU is and which instructions it has for fast products."""

import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
#: Linux's flags of the instructions that engines use for low precision, and their usual names.
_FAST = {
    "amx_bf16": "AMX-BF16",
    "amx_int8": "AMX-INT8",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX512",
    "avx2": "AVX2",
    "bf16": "BF16",  # the last ones are Arm's
    "i8mm": "I8MM",
    "asimdhp": "FP16",
}
_NUMBERS = ("cpu family", "model", "CPU implementer", "CPU part")  # Arm's have no name


@cache
def _facts(cpuinfo: Path) -> dict[str, str]:
    """The first processor's lines."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """Return the CPU's name as the system gives it, with family and model where it tells them."""
    facts = _facts(cpuinfo)
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [facts[key] for key in _NUMBERS if key in facts]
    return f"{name} ({'/'.join(numbers)})" if numbers else name


def cpu_features(cpuinfo: Path = _CPUINFO) -> list[str]:
    """Return the names of the instruction sets that matter here, best first."""
    facts = _facts(cpuinfo)
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return [name for flag, name in _FAST.items() if flag in flags]
