"""Parquet files as Hugging Face, polars, DuckDB and hand-made tools write them."""

import base64
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovml_deploy.errors import ImageError, UsageError
from ovml_deploy.pipelines.archives.parquet_images import check_column, images_in

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Rows = list[tuple[str, bytes | str]]


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


A, B = picture("red"), picture("blue")


def views(*values: bytes) -> pa.Array:
    return pa.array(values, pa.binary()).cast(pa.binary_view())


#: name: (column, its values, what is read: place and bytes, or a part of the error)
LAYOUTS: dict[str, tuple[str, pa.Array, Rows]] = {
    "binary": ("image", pa.array([A, B], pa.binary()), [("0", A), ("1", B)]),
    "large binary": ("image", pa.array([A, B], pa.large_binary()), [("0", A), ("1", B)]),
    "binary view": ("image", views(A, B), [("0", A), ("1", B)]),
    "fixed size": ("image", pa.array([A], pa.binary(len(A))), [("0", A)]),
    "dictionary": (
        "image",
        pa.array([A, B, None, A], pa.binary()).dictionary_encode(),
        [("0", A), ("1", B), ("2", "no bytes in this row"), ("3", A)],
    ),
    "hugging face": (
        "image",
        pa.array(
            [{"bytes": A, "path": "a.png"}, None, {"bytes": None, "path": "/etc/passwd"}], HF
        ),
        [("0", A), ("1", "no bytes in this row"), ("2", "the path '/etc/passwd', which is not followed")],
    ),
    "struct of a view": (
        "image",
        pa.StructArray.from_arrays([views(B)], ["bytes"]),
        [("0", B)],
    ),
    "list of structs": (
        "images",
        pa.array([[{"bytes": A, "path": None}, {"bytes": B, "path": None}], [], None], pa.list_(HF)),
        [("0.0", A), ("0.1", B), ("2", "no bytes in this row")],
    ),
    "struct of lists": (
        "images",
        pa.array([{"bytes": [A, B]}], pa.struct([("bytes", pa.list_(pa.binary()))])),
        [("0.0", A), ("0.1", B)],
    ),
    "large list": ("images", pa.array([[B]], pa.large_list(pa.binary())), [("0.0", B)]),
    "nested": (
        "sample.image",
        pa.array([{"image": {"bytes": A}, "id": 1}], pa.struct([("image", HF), ("id", pa.int64())])),
        [("0", A)],
    ),
    "empty": ("image", pa.array([b"", A], pa.binary()), [("0", "is empty"), ("1", A)]),
    "no rows": ("image", pa.array([], pa.binary()), []),
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(column: str, values: pa.Array, **options: Any) -> str:
        path = tmp_path / "a.parquet"
        table = pa.table({column.split(".")[0]: values, "id": pa.array(range(len(values)))})
        pq.write_table(table, path, **options)
        return str(path)

    return write


def read(path: str, column: str) -> list[tuple[str, bytes | str]]:
    return [
        (place, str(content) if isinstance(content, ImageError) else content)
        for place, content in images_in(path, column)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_layouts(write: Callable[..., str], layout: str, compression: str) -> None:
    column, values, expected = LAYOUTS[layout]
    path = write(column, values, compression=compression, row_group_size=2)
    check_column(path, column)
    found = read(path, column)
    assert [place for place, _ in found] == [place for place, _ in expected]
    for (_, content), (_, wanted) in zip(found, expected, strict=True):
        if isinstance(wanted, bytes):
            assert content == wanted
        else:
            assert wanted in content


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a.png"]),
        pa.array(["https://example.com/a.png"], pa.string()).cast(pa.string_view()),
        pa.array([base64.b64encode(A).decode()], pa.large_string()),
        pa.array([list(A)], pa.list_(pa.uint8())),
        pa.array([[[A]]], pa.list_(pa.list_(pa.binary()))),
        pa.array([{"path": "a.png"}], pa.struct([("path", pa.string())])),
        pa.array([1]),
    ],
    ids=str,
)
def test_columns_without_encoded_images_are_refused(write: Callable[..., str], values) -> None:
    path = write("image", values)
    with pytest.raises(UsageError, match=r"holds .*, not images\. An image column holds encoded"):
        check_column(path, "image")


def test_a_wrong_column_names_those_that_hold_images(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    sample = pa.array([{"image": {"bytes": A, "path": ""}}], pa.struct([("image", HF)]))
    pq.write_table(pa.table({"text": ["a"], "jpg": pa.array([A]), "sample": sample}), path)
    remedy = r"Name another: --image-column jpg or sample\.image"
    with pytest.raises(
        UsageError, match=rf"no column 'image'; it has: text, jpg, sample\. {remedy}"
    ):
        check_column(path, "image")
    with pytest.raises(UsageError, match=rf"'text' .* holds string, not images\. {remedy}"):
        check_column(path, "text")
    with pytest.raises(UsageError, match=r"no column 'sample\.mask'"):
        check_column(path, "sample.mask")
    check_column(path, "sample.image")


def test_a_column_whose_name_holds_a_dot(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"a.jpg": pa.array([A])}), path)
    check_column(path, "a.jpg")
    assert read(path, "a.jpg") == [("0", A)]


def test_hugging_faces_layout_in_a_fresh_process(write: Callable[..., str]) -> None:
    """pandas, which pytest's other tests import, hides what this library forgot to import itself."""
    column, values, _ = LAYOUTS["hugging face"]
    code = (
        "import sys\n"
        "from ovml_deploy.pipelines.archives.sources import find_items\n"
        "names = [item.name for item in find_items([sys.argv[1]], lambda name: True, 'image')]\n"
        "assert 'pandas' not in sys.modules\n"
        "print(len(names))\n"
    )
    path = write(column, values)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr
