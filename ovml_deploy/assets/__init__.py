"""What ships with the package: the embedded model and sample photographs."""

from pathlib import Path

_HERE = Path(__file__).parent

#: The bundle of the embedded model.
MINI = _HERE / "mini"


def sample_photographs() -> list[Path]:
    """Return the sample photographs (their licences: ``samples/LICENSES.md``)."""
    return sorted((_HERE / "samples").glob("*.jpg"))
