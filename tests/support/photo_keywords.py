"""Photos with keywords in them, made and read without ExifTool."""

import io
import shutil
import struct
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image, IptcImagePlugin

needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="Debian's libimage-exiftool-perl is not installed"
)

_DC = "http://purl.org/dc/elements/1.1/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
UTF8_MARK = b"\x1b%G"


def xmp_keywords(path: Path) -> list[str]:
    """The words of dc:subject."""
    with Image.open(path) as image:
        packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        if packet is None and image.format == "TIFF":
            packet = image.tag_v2.get(700)
    if packet is None:
        return []
    root = ET.fromstring(packet.strip(b"\0") if isinstance(packet, bytes) else packet)
    return [item.text or "" for item in root.findall(f".//{{{_DC}}}subject//{{{_RDF}}}li")]


def iptc(path: Path, record: int, dataset: int) -> list[bytes]:
    """The values of an IPTC dataset, as bytes."""
    with Image.open(path) as image:
        value = (IptcImagePlugin.getiptcinfo(image) or {}).get((record, dataset), [])
    return value if isinstance(value, list) else [value]


def iptc_keywords(path: Path) -> list[str]:
    """IPTC's keywords, which must be marked as UTF-8 where there are some."""
    words = iptc(path, 2, 25)
    assert not words or iptc(path, 1, 90) == [UTF8_MARK]
    return [word.decode() for word in words]


def jpeg_with(
    path: Path, keywords: Sequence[bytes] = (), caption: bytes = b"", subjects: Sequence[str] = ()
) -> Path:
    """Write a JPEG with IPTC texts that are not marked, and with an XMP packet."""
    words = "".join(f"<rdf:li>{word}</rdf:li>" for word in subjects)
    packet = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description '
        f'rdf:about="" xmlns:dc="{_DC}"><dc:subject><rdf:Bag>{words}</rdf:Bag></dc:subject>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    stream = io.BytesIO()
    options = {"xmp": packet.encode()} if subjects else {}
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(stream, "JPEG", **options)
    data = stream.getvalue()
    values = [(25, word) for word in keywords] + ([(120, caption)] if caption else [])
    if values:
        block = b"".join(b"\x1c\x02" + struct.pack(">BH", n, len(v)) + v for n, v in values)
        resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block
        segment = b"Photoshop 3.0\0" + resource + b"\0" * (len(block) % 2)
        data = data[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    path.write_bytes(data)
    return path


def pixel_bytes(path: Path) -> bytes:
    """The encoded pixels of a JPEG, PNG, TIFF or WebP file, as they lie in it."""
    data = path.read_bytes()
    if data.startswith(b"\xff\xd8"):
        return data[data.index(b"\xff\xda", _end_of_segments(data)) :]
    if data.startswith(b"\x89PNG"):
        return b"".join(content for kind, content in _png_chunks(data) if kind == b"IDAT")
    if data.startswith(b"RIFF"):
        images = (b"VP8 ", b"VP8L")
        return b"".join(content for kind, content in _riff_chunks(data) if kind in images)
    with Image.open(path) as image:
        places = zip(image.tag_v2[273], image.tag_v2[279], strict=True)
        return b"".join(data[start : start + length] for start, length in places)


def _end_of_segments(data: bytes) -> int:
    at = 2
    while data[at + 1] != 0xDA:
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return at


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 12
    while at < len(data):
        length = struct.unpack("<I", data[at + 4 : at + 8])[0]
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return chunks
