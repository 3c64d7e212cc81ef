"""CPUs are known by what Linux says of them."""

from pathlib import Path

import pytest

from ovml_deploy.runtime.cpu import cpu_features, cpu_name

SAPPHIRE_RAPIDS = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_2 avx2 avx512f avx512bw avx512vl avx512_vnni avx_vnni avx512_bf16 avx512_fp16 \
amx_bf16 avx512_vpopcntdq amx_tile amx_int8 arch_capabilities

processor\t: 1
model name\t: another
"""
ZEN_4 = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9354 32-Core Processor
flags\t\t: fpu sse4_2 avx2 avx512f avx512vl avx512_bf16 avx512_vnni avx512_bitalg fsrm
"""
NEOVERSE_V1 = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd aes crc32 atomics fphp asimdhp cpuid asimddp sve i8mm svebf16 bf16 dgh
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40
"""


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        (
            SAPPHIRE_RAPIDS,
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (6/143)",
            "AMX-BF16 AMX-INT8 AVX512-BF16 AVX512-FP16 AVX512-VNNI AVX-VNNI AVX512 AVX2",
        ),
        (
            ZEN_4,
            "AMD EPYC 9354 32-Core Processor (25/17)",
            "AVX512-BF16 AVX512-VNNI AVX512 AVX2",
        ),
        (NEOVERSE_V1, "(0x41/0xd40)", "BF16 I8MM FP16"),
    ],
)
def test_names_and_features(tmp_path: Path, text: str, name: str, features: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert cpu_name(cpuinfo).endswith(name)
    assert cpu_features(cpuinfo) == features.split()


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert cpu_name(tmp_path / "absent")
    assert cpu_features(tmp_path / "absent") == []
