"""Images in a Parquet file's column, in the layouts that other programs write.

A row holds encoded bytes, a struct with a field ``bytes`` (Hugging Face datasets), or a list of
either. Binary types of any width, views and dictionaries are read alike. Paths and URLs are never followed.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ovml_deploy.errors import ImageError, UsageError
from ovml_deploy.pipelines.archives.arrow import DAMAGED, pa, pq
from ovml_deploy.runtime.images import MAX_BYTES

_ROWS_AT_ONCE = 16
_BYTES = "bytes"  # the field of Hugging Face's struct, beside "path"
_ACCEPTED = (
    "An image column holds encoded bytes, a struct with a field 'bytes', or lists of either. Paths, "
    "URLs and Base64 in a Parquet are not read: give the image files or their folder instead."
)


def check_column(path: str, column: str) -> None:
    """Raise UsageError where a column is missing or cannot hold images; a damaged file passes."""
    try:
        schema = pq.read_schema(path)
    except DAMAGED:
        return  # one damaged source, reported with the others
    kind = _type_of(schema, column)
    if kind is not None and _holds_images(kind):
        return
    candidates = sorted(_candidates(schema))
    remedy = f"Name another: --image-column {' or '.join(candidates)}." if candidates else _ACCEPTED
    if kind is None:
        columns = ", ".join(schema.names)
        raise UsageError(f"{path} has no column {column!r}; it has: {columns}. {remedy}")
    raise UsageError(f"The column {column!r} of {path} holds {kind}, not images. {remedy}")


def images_in(
    path: str, column: str, wanted: Callable[[str], bool] = lambda place: True
) -> Iterator[tuple[str, bytes | ImageError]]:
    """Yield each wanted image's place in the file and its bytes, or why there are none.

    The place is the row, and the position in its list where rows hold lists: "7" or "7.0".
    ``column``: a name, with dots into structs. ``wanted``: asked once for each place; bytes of other
    images are not copied. Raises one of ``DAMAGED`` for a damaged file.
    """
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[column], use_threads=False):
            name, *fields = _split(batch.schema, column)
            for value in batch.column(name):
                for field in fields:
                    value = value[field] if value.is_valid else value
                for place, image in _row(str(row), value, path):
                    if wanted(place):
                        error = isinstance(image, ImageError)
                        yield place, image if error else _bytes(image, f"{path}::{place}")
                row += 1


def _row(place: str, value: Any, file: str) -> Iterator[tuple[str, Any]]:
    """Yield the places of a row's images, and Arrow's scalar of each or why there is none."""
    name, path = f"{file}::{place}", None
    if value.is_valid and pa.types.is_struct(value.type):
        path = value["path"].as_py() if "path" in value else None
        value = value[_BYTES]
    value = _decoded(value)
    if value.is_valid and _is_list(value.type):
        for index, element in enumerate(value):
            yield from _row(f"{place}.{index}", element, file)
    elif value.is_valid:
        yield place, value
    elif isinstance(path, str):
        text = f"{name}: holds no bytes, only the path {path[:80]!r}, which is not followed."
        yield place, ImageError(f"{text} Give the image files instead.")
    else:
        yield place, ImageError(f"{name}: there are no bytes in this row.")


def _bytes(value: Any, name: str) -> bytes | ImageError:
    if (size := len(value.as_buffer())) > MAX_BYTES:
        return ImageError(f"{name}: {size:,} bytes; at most {MAX_BYTES:,} are read.")
    return value.as_py() or ImageError(f"{name}: is empty (0 bytes).")


def _decoded(value: Any) -> Any:
    return value.value if pa.types.is_dictionary(value.type) and value.is_valid else value


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index(_BYTES) >= 0 and _holds_images(kind.field(_BYTES).type)
    if pa.types.is_dictionary(kind):
        return _is_bytes(kind.value_type)
    if _is_list(kind):
        return not _is_list(kind.value_type) and _holds_images(kind.value_type)
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _split(schema: Any, column: str) -> list[str]:
    """The column's name and the fields below it; a name may itself hold dots."""
    if column in schema.names:
        return [column]
    return column.split(".")


def _type_of(schema: Any, column: str) -> Any:
    name, *fields = _split(schema, column)
    if name not in schema.names:
        return None
    kind = schema.field(name).type
    for field in fields:
        if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
            return None
        kind = kind.field(field).type
    return kind


def _candidates(schema: Any) -> Iterator[str]:
    """The columns that can hold images, and fields of structs that can."""
    for field in schema:
        if _holds_images(field.type):
            yield field.name
        elif pa.types.is_struct(field.type):
            for inner in field.type:
                if _holds_images(inner.type):
                    yield f"{field.name}.{inner.name}"
