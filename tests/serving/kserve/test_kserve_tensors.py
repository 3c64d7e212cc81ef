"""Tensors on the wire, as tritonclient writes and reads them."""

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from ovml_deploy.errors import UsageError
from ovml_deploy.serving.kserve.tensors import Tensor, from_json, from_octets, from_parts, from_raw

PARTS = [b"one", b"", b"ends in zeros\0\0", b"\xff\xd8", "äöü".encode()]


def objects(parts: list[bytes]) -> np.ndarray:
    array = np.empty(len(parts), dtype=object)
    array[:] = parts
    return array


def test_bytes_are_read_as_tritonclient_writes_them() -> None:
    raw = serialize_byte_tensor(objects(PARTS)).item()
    assert [*from_raw("image", "BYTES", [5], raw).array] == PARTS
    assert [*from_parts("image", [5], PARTS).array] == PARTS


def test_bytes_are_written_as_tritonclient_reads_them() -> None:
    raw = Tensor("labels", "BYTES", objects(PARTS)).raw()
    assert [*deserialize_bytes_tensor(raw)] == PARTS
    table = Tensor("labels", "BYTES", objects([b"a", b"b", b"", b"\xc3\xa4"]).reshape(2, 2))
    assert [*deserialize_bytes_tensor(table.raw())] == [b"a", b"b", b"", b"\xc3\xa4"]
    assert table.values() == ["a", "b", "", "ä"]


def test_numbers_are_little_endian_row_after_row() -> None:
    table = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert (
        Tensor("queries", "INT32", table.T).raw() == np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes()
    )
    assert (
        Tensor("scores", "FP32", table.astype(">f4")).raw() == np.arange(6.0, dtype="<f4").tobytes()
    )
    assert Tensor("queries", "INT32", table).values() == [0, 1, 2, 3, 4, 5]


def test_octets() -> None:
    expected = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    shape = expected.shape
    for read in (
        from_raw("pixels", "UINT8", shape, expected.tobytes()),
        from_octets("pixels", shape, [*range(12)]),
        from_json("pixels", "UINT8", shape, [*range(12)]),
        from_json("pixels", "UINT8", shape, expected.tolist()),
    ):
        np.testing.assert_array_equal(read.array, expected)
        assert read.array.dtype == np.uint8


def test_json_has_bytes_in_base64() -> None:
    assert [*from_json("image", "BYTES", [2], ["b25l", "AAA="]).array] == [b"one", b"\0\0"]


@pytest.mark.parametrize(
    ("raw", "count", "text"),
    [
        (b"\x05\0\0\0abc", 1, "element 1 should have 5 bytes, and 3 came"),
        (
            b"\x01\0\0\0a\xff\xff\xff\xffb",
            2,
            "element 2 should have 4,294,967,295 bytes, and 1 came",
        ),
        (b"\x01\0\0\0a\x02\0", 2, "and 0 came"),
        (b"\x01\0\0\0a", 2, "has 2 elements; 1 came"),
        (b"", 1, "has 1 elements; 0 came"),
        (b"\x01\0\0\0a\x01\0\0\0b", 1, "after them 5 bytes came"),
    ],
)
def test_bytes_that_are_cut_off_or_too_many(raw: bytes, count: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        from_raw("image", "BYTES", [count], raw)


@pytest.mark.parametrize(
    "data",
    [
        [1, 2, 3],
        [1, 2, 3, 256],
        [1, 2, 3, -1],
        [1, 2, 3, 4.0],
        [1, 2, 3, "4"],
        [1, 2, 3, None],
        [1, 2, 3, 10**400],
        [[1, 2], 3, 4],
        [[1, 2], [3]],
        [[[1, 2]], [[3, 4]]],
        [{"1": 2}, 2, 3, 4],
        [[], []],
    ],
)
def test_numbers_that_are_no_octets(data: list) -> None:
    with pytest.raises(UsageError, match="The tensor 'pixels'"):
        from_json("pixels", "UINT8", [2, 2], data)


@pytest.mark.parametrize("data", [["no base64!"], [3], ["QQ==", "QQ=="], [None], ["Ä"]])
def test_texts_that_are_no_base64(data: list) -> None:
    with pytest.raises(UsageError, match="The tensor 'image'"):
        from_json("image", "BYTES", [1], data)


def test_raw_octets_of_another_size() -> None:
    with pytest.raises(UsageError, match="has 12 bytes; 11 came"):
        from_raw("pixels", "UINT8", [1, 2, 2, 3], bytes(11))
