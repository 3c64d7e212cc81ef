"""Hostile inputs by kind: what is sent, when, and how the connection ends. All seeded."""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

#: What ends an input: an answer is read, or the client hangs up in one of three ways.
ENDS = ("read", "close", "half", "reset")

_PATHS = ("/v1/tag", "/v1/encode", "/v1/match", "/v1/attention", "/v1/vocabularies/hostile")
_TYPES = ("image/jpeg", "image/png", "application/octet-stream", "application/json", "text/html")
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")


@dataclass(frozen=True)
class Input:
    """Bytes to send, and numbers of seconds to wait between them."""

    kind: str
    steps: tuple[bytes | float, ...]
    end: str = "read"


def make_inputs(
    count: int, seed: int, host: str, photographs: Sequence[bytes], path_names: Sequence[str]
) -> list[Input]:
    """Return so many inputs for a server, of all kinds in turn, in a random order.

    ``photographs``: valid images to damage; ``path_names``: vocabularies that are there.
    """
    maker = _Maker(random.Random(seed), host, photographs, path_names)
    kinds = maker.kinds()
    made = [kinds[number % len(kinds)]() for number in range(count)]
    maker.random.shuffle(made)
    return made


class _Maker:
    def __init__(
        self,
        source: random.Random,
        host: str,
        photographs: Sequence[bytes],
        names: Sequence[str],
    ) -> None:
        self.random = source
        self._host = host
        self._photographs = photographs
        self._names = names
        self._small = _encoded(source)
        self._bombs = _bombs()

    def kinds(self) -> list[Callable[[], Input]]:
        return [
            self.truncated, self.flipped, self.noise, self.bomb, self.impostor,
            self.deep_json, self.odd_json, self.odd_base64, self.odd_form, self.odd_options,
            self.odd_path, self.forged_length, self.odd_chunks, self.flood, self.odd_head,
            self.pipelined, self.slow, self.hang_up, self.half_closed, self.foreign,
        ]  # fmt: skip

    def truncated(self) -> Input:
        image = self._some_image()
        return self._image("truncated image", image[: self.random.randrange(len(image))])

    def flipped(self) -> Input:
        image = bytearray(self._some_image())
        for _ in range(self.random.choice((1, 3, 30, 300))):
            image[self.random.randrange(len(image))] = self.random.randrange(256)
        return self._image("damaged image", bytes(image))

    def noise(self) -> Input:
        starts = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\0", b"BM")
        start = self.random.choice(starts)
        data = self.random.randbytes(self.random.choice((0, 1, 10, 1000, 100_000)))
        return self._image("random bytes", start + data)

    def bomb(self) -> Input:
        return self._image("bomb", self.random.choice(self._bombs))

    def impostor(self) -> Input:
        bodies = (
            b"<!doctype html><html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"PK\3\4" + bytes(30),
            b"\0\0\0\x18ftypmp42", b"P6 99999 99999 255\n", b"http://127.0.0.1/", b"/etc/passwd",
            b"id=ImageMagick version=1.0\n", b"\x76\x2f\x31\x01" + bytes(20),
        )  # fmt: skip
        return self._image("wrong type", self.random.choice(bodies))

    def deep_json(self) -> Input:
        depth = self.random.choice((100, 1000, 100_000))
        left, right = self.random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"images":[', b"]}")))
        return self._json("deep JSON", left * depth + b"1" + right * self.random.choice((0, depth)))

    def odd_json(self) -> Input:
        if self.random.random() < 0.3:
            return self._json("odd JSON", self._wide_json())
        number = self.random.choice(
            ("1e999", "-1e999", "NaN", "Infinity", "9" * 5000, "-0", "1e-999", "1.5", "true", "{}")
        )
        text = self.random.choice(
            (
                '{"images":[%s]}', '{"images":[""],"top_k":%s}', '{"images":[""],"threshold":%s}',
                '{"features":[{"shape":[%s,%s],"data":""}]}', '{"labels":[%s]}', '{"labels":{"a":%s}}',
                '{"features":%s}', "%s", '{"labels":["\\ud800","%s"]}', '{"labels":["a\\u0000%s"]}',
                '{"__proto__":%s,"images":[""]}', '{"images":[""],"vocabulary":"../%s"}',
            )
        ).replace("%s", number)  # fmt: skip
        body = text.encode()
        if self.random.random() < 0.3:
            body = body.replace(b'"', self.random.choice((b'"\xff\xfe', b'"\xc3(', b"'")), 1)
        return self._json("odd JSON", body)

    def _wide_json(self) -> bytes:
        """As many faults as fit: each may cost far more than the bytes that make it."""
        item = self.random.choice(("1", '""', "{}", "[]", "null", '"QQ=="', '{"shape":[],"a":1}'))
        fields = ",".join(f'"a{number}":{item}' for number in range(50_000))
        items = ",".join([item] * 200_000)
        form = self.random.choice(
            (
                '{"images":[%s]}', '{"labels":[%s]}', '{"images":[""],"labels":[%s]}', "[%s]",
                '{"features":[%s]}', '{"features":[{"data":"","shape":[%s]}]}', '{"a":[%s]}',
            )
        )  # fmt: skip
        named = self.random.choice(('{"labels":{%s}}', "{%s}", '{"features":[{%s}]}'))
        wide = form % items if self.random.random() < 0.6 else named % fields
        return wide.encode()

    def odd_base64(self) -> Input:
        good = base64.b64encode(self._some_image()).decode()
        texts = ("====", "A", "%%%", "data:,", "data:image/png;base64,", "é", "\n".join(good[:200]))
        sent = [self.random.choice((*texts, good[:-1], good[::-1])) for _ in range(3)]
        return self._json("odd base64", json.dumps({"images": sent}).encode())

    def odd_form(self) -> Input:
        name = self.random.choice(
            ("../../../etc/passwd", "a\0b", "x" * 70_000, "C:\\con", "é\xff", '"', "")
        )
        part = b'Content-Disposition: form-data; name="image"; filename="%s"\r\n\r\n' % name.encode(
            "latin-1", "replace"
        )
        image = self._some_image()
        bodies = (
            b"--b\r\n" + part + image + b"\r\n--b--\r\n",
            b"--b\r\n" + part + image,
            b"--b\r\n" * 2000,
            b"--b--",
            b"--b\r\n" + part * 50 + b"\r\n--b--\r\n",
            b'--b\r\ncontent-disposition: form-data; name="top_k"\r\n\r\n' + b"9" * 3_000_000,
            b"--b\r\n\r\n\r\n--b--\r\n",
            self.random.randbytes(5000),
        )
        boundaries = ("b", "", '"b', "b" * 500, "b; charset=none", "c")
        media = f"multipart/form-data; boundary={self.random.choice(boundaries)}"
        return Input(
            "odd form", (self._request("POST", "/v1/tag", self.random.choice(bodies), media),)
        )

    def odd_options(self) -> Input:
        query = self.random.choice(
            (
                "top_k=0", "top_k=-1", "top_k=1e9", "top_k=" + "9" * 5000, "threshold=nan",
                "threshold=-inf", "threshold=2", "labels=%00", "labels=,,,", "labels=%FF%FE",
                "labels=" + "a," * 2000, "labels=" + "x" * 5000, "vocabulary=..%2F..%2Fetc%2Fpasswd",
                "vocabulary=" + "x" * 300, "vocabulary=%00", "unknown=1", "top_k=1&top_k=2", "%", "&=&",
                "labels=a%0Ab", "labels=" + "%F0%9F%90%88" * 300,
            )
        )  # fmt: skip
        body = self._some_image()
        return Input("odd options", (self._request("POST", f"/v1/tag?{query}", body, "image/png"),))

    def odd_path(self) -> Input:
        method = self.random.choice(("GET", "PUT", "DELETE", "POST"))
        path = self.random.choice(
            (
                "/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/page/../../../etc/passwd",
                "/page/%2e%2e/%2e%2e/state", "/page/..%5c..%5c", "/%00", "//", "/v1/vocabularies/..",
                "/v1/vocabularies/%2e%2e", "/v1/vocabularies/%00", "/v1/vocabularies/a%2Fb",
                "/v1/vocabularies/" + "x" * 5000, "/v1/vocabularies/con", "/v1/vocabularies/.lock",
                "/v1/vocabularies/active.json", "/" + "%41" * 5000, "*", "/v2/models/..%2f/infer",
                "/v1/vocabularies/" + self.random.choice([*self._names]),
            )
        )  # fmt: skip
        body = b'{"labels":["a"]}' if method == "PUT" else b""
        return Input("odd path", (self._request(method, path, body, "application/json"),))

    def forged_length(self) -> Input:
        body = self._some_image()
        length = self.random.choice(
            (
                str(len(body) + 10), str(len(body) - 10), "-1", "0", "99999999999999999999999", "1e3",
                "0x10", " ", "1,1", f"{len(body)}\r\ncontent-length: {len(body) + 1}", "+5", "４",
                f"{len(body)}\r\ntransfer-encoding: chunked", str(40 << 20), str(2**31), str(2**63),
            )
        )  # fmt: skip
        head = self._head("POST", "/v1/tag", f"content-type: image/png\r\ncontent-length: {length}")
        end = "half" if length == str(len(body) + 10) else self.random.choice(ENDS)
        return Input("forged length", (head, body, 0.05), end)

    def odd_chunks(self) -> Input:
        sizes = (b"zz", b"-1", b"ffffffffffffffffff", b"5;" + b"x" * 5000, b"", b"1\n", b"0x5")
        size = self.random.choice(sizes)
        body = self.random.choice(
            (
                size + b"\r\nhello\r\n0\r\n\r\n",
                b"5\r\nhello" + size,
                b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n",
                b"0\r\n" + b"trailer: x\r\n" * 3000 + b"\r\n",
                b"0\r\n" + b"trailer: x\r\n" * 50_000,
                b"0\r\n" + b"t" * 500_000,
                b"5\r\nhello\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: evil\r\n\r\n",
            )
        )
        coding = self.random.choice(("chunked", "chunked, chunked", "gzip, chunked", "identity"))
        fields = f"content-type: image/png\r\ntransfer-encoding: {coding}"
        return Input(
            "odd chunks",
            (self._head("POST", "/v1/tag", fields), body, 0.05),
            self.random.choice(ENDS[1:]),
        )

    def flood(self) -> Input:
        fields = self.random.choice(
            (
                "\r\n".join(f"x-{i}: {i}" for i in range(20_000)),
                "x: " + "y" * 200_000,
                "x" * 200_000 + ": y",
                "cookie: a\r\n" * 9000 + "x: y",
                "authorization: Bearer " + "k" * 50_000,
            )
        )
        return Input("header flood", (self._head("GET", "/v1/model", fields),))

    def odd_head(self) -> Input:
        return Input(
            "odd head",
            (
                self.random.choice(
                    (
                        b"\r\n" * 2000, b"\0" * 500, b"GET\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n",
                        b"GET / HTTP/3.0\r\n\r\n", b"BREW /pot HTTP/1.1\r\nhost: a\r\n\r\n",
                        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
                        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
                        b"GET / HTTP/1.1\r\n folded\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
                        b"GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n",
                        b"GET / HTTP/1.1\rhost: localhost\r\r", self.random.randbytes(300) + b"\r\n\r\n",
                        self._head("POST", "/v1/tag", "upgrade: websocket\r\nconnection: upgrade"),
                        self._head("POST", "/v1/tag", "expect: 100-continue\r\ncontent-length: 5"),
                    )
                ),
                0.05,
            ),
            "half",
        )  # fmt: skip

    def pipelined(self) -> Input:
        one = self._request("GET", "/healthz", b"", "")
        two = self._request("POST", "/v1/tag", self._some_image(), "image/png")
        offer = self._head("GET", "/healthz", "upgrade: h2c\r\nconnection: upgrade")
        garbled = one + b"garbage\r\n\r\n"
        sent = self.random.choice((one * 300, offer * 700, two * 5, garbled, two + one * 50))
        return Input("pipelining", (sent, 0.05), self.random.choice(ENDS))

    def slow(self) -> Input:
        whole = self._request("POST", "/v1/tag", self._some_image(), "image/png")
        cuts = sorted(self.random.randrange(1, len(whole)) for _ in range(4))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        steps: list[bytes | float] = []
        for piece in pieces:
            steps += [piece, 0.03]
        return Input("slow body", tuple(steps))

    def hang_up(self) -> Input:
        whole = self._request("POST", self.random.choice(_PATHS), self._some_image(), "image/png")
        cut = self.random.randrange(len(whole))
        return Input("hang-up", (whole[:cut],), self.random.choice(("close", "reset")))

    def half_closed(self) -> Input:
        whole = self._request("POST", "/v1/tag", self._some_image(), "image/png")
        cut = self.random.choice((len(whole), self.random.randrange(len(whole))))
        return Input("half-closed socket", (whole[:cut],), "half")

    def foreign(self) -> Input:
        field = self.random.choice(
            (
                "origin: http://evil.example", "origin: null", "origin: http://[", "origin: \xe9",
                "host: evil.example", "host: [", "host: a, b", "referer: http://[",
                "content-encoding: gzip", "x-forwarded-for: 1.2.3.4", "x-http-method-override: DELETE",
                "range: bytes=0-9999999999", "accept: \xff", "authorization: \xff",
            )
        )  # fmt: skip
        body = b'{"images":[]}'
        fields = f"{field}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        return Input("odd headers", (self._head("POST", "/v1/tag", fields) + body,))

    def _image(self, kind: str, body: bytes) -> Input:
        path = self.random.choice(("/v1/tag", "/v1/encode"))
        return Input(kind, (self._request("POST", path, body, self.random.choice(_TYPES[:3])),))

    def _json(self, kind: str, body: bytes) -> Input:
        path = self.random.choice(_PATHS)
        method = "PUT" if path.endswith("hostile") else "POST"
        path += self.random.choice(("", "?top_k=3")) if method == "POST" else ""
        return Input(kind, (self._request(method, path, body, "application/json"),))

    def _some_image(self) -> bytes:
        return self.random.choice(self.random.choice((self._photographs, self._small)))

    def _request(self, method: str, path: str, body: bytes, media: str) -> bytes:
        fields = f"content-length: {len(body)}" + (f"\r\ncontent-type: {media}" if media else "")
        return self._head(method, path, fields) + body

    def _head(self, method: str, path: str, fields: str) -> bytes:
        host = "" if fields.startswith("host:") else f"host: {self._host}\r\n"
        return f"{method} {path} HTTP/1.1\r\n{host}{fields}\r\n\r\n".encode(
            "utf-8", "surrogateescape"
        )


def _encoded(source: random.Random) -> list[bytes]:
    """Small images in all formats."""
    found = []
    for name in _FORMATS:
        image = Image.frombytes("RGB", (24, 24), source.randbytes(24 * 24 * 3))
        file = io.BytesIO()
        image.save(file, name)
        found.append(file.getvalue())
    return found


def _bombs() -> list[bytes]:
    """Images that promise, or would make, more pixels or bytes than memory has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    def png(width: int, height: int, *chunks: bytes) -> bytes:
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")

    zeros = zlib.compress(bytes(100_000_000), 9)
    large, real = io.BytesIO(), io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(large, "PNG")
    Image.new("1", (7000, 7000)).save(real, "PNG")  # small enough to be tagged
    frames = io.BytesIO()
    pictures = [Image.new("P", (50, 50), color) for color in range(200)]
    pictures[0].save(frames, "GIF", save_all=True, append_images=pictures[1:])
    ifd = struct.pack("<H", 3)
    for tag, value in ((256, 4_000_000_000), (257, 4_000_000_000), (258, 8)):
        ifd += struct.pack("<HHII", tag, 4, 1, value)
    return [
        large.getvalue(),
        real.getvalue(),
        frames.getvalue(),
        png(2**31 - 1, 2**31 - 1),
        png(60_000, 60_000, chunk(b"IDAT", zeros)),
        png(0, 0),
        png(10, 10, chunk(b"zTXt", b"a\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(310)))),
        png(10, 10, chunk(b"iCCP", b"a\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(310)))),
        png(10, 10, chunk(b"IDAT", zeros)),
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + b";",
        b"BM" + struct.pack("<IHHIIiiHH", 100, 0, 0, 54, 40, 2**30, 2**30, 1, 24) + bytes(24),
        b"II*\0" + struct.pack("<I", 8) + ifd + bytes(4),
        b"RIFF"
        + struct.pack("<I", 22)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\x10"
        + b"\xff" * 9,
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\1\x03\x11\1\xff\xd9",
    ]
