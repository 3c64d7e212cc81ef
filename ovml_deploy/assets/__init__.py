"""What ships with the package: the embedded model and sample photographs."""

from pathlib import Path

from ovml_deploy.errors import UsageError

_HERE = Path(__file__).parent
_PACKAGE = _HERE.resolve().parent

#: The bundle of the embedded model.
MINI = _HERE / "mini"


def sample_photographs() -> list[Path]:
    """Return the sample photographs (their licences: ``samples/LICENSES.md``)."""
    return sorted((_HERE / "samples").glob("*.jpg"))


def in_package(path: str | Path) -> bool:
    """Whether a path lies in the package's folder, which no command writes."""
    return Path(path).resolve().is_relative_to(_PACKAGE)


def require_outside(path: str | Path, remedy: str = "Name another place with --out.") -> None:
    """Raise UsageError for an output in the package's folder."""
    if in_package(path):
        raise UsageError(
            f"{str(path)!r} lies in the installed package, which is never changed. {remedy}"
        )
