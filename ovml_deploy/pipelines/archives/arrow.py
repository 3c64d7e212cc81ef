"""Arrow and Parquet, or the command that installs them."""

from ovml_deploy.errors import MissingDependencyError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"Archives need the package {error.name!r}. Install it: pip install 'ovml-deploy[archives]'"
    ) from error

#: What Arrow raises for files that are damaged, cut short or not what they seem.
DAMAGED = (pa.ArrowException, OSError, ValueError)

__all__ = ["DAMAGED", "pa", "pq"]
