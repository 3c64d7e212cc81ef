"""Builds cpp_examples once, into a folder that stays, and speaks to what was built."""

import ctypes
import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from shell import ROOT

from ovml_deploy.runtime.telemetry import import_onnxruntime, import_openvino

SOURCES = ROOT / "cpp_examples"

#: Debian's packages by what they bring.
_PACKAGES = {
    "cmake": "cmake",
    "c++": "g++",
    "/usr/include/nlohmann/json.hpp": "nlohmann-json3-dev",
    "/usr/include/jpeglib.h": "libjpeg-dev",
    "/usr/include/png.h": "libpng-dev",
    "/usr/include/unicode/uchar.h": "libicu-dev",
    "/usr/include/openssl/evp.h": "libssl-dev",
}


def require_toolchain() -> None:
    """Skip, naming Debian's packages, where C++ cannot be built."""
    missing = [
        package
        for what, package in _PACKAGES.items()
        if not (Path(what).exists() if what.startswith("/") else shutil.which(what))
    ]
    if missing:
        pytest.skip(f"C++ is not built without Debian's {' '.join(missing)}")
    try:
        import_openvino()
    except ImportError:
        pytest.skip("C++ is not built without the openvino wheel")


@functools.cache
def onnxruntime_root() -> Path | None:
    """The folder of ``make build/onnxruntime``, if its library is of the Python runtime's version."""
    onnxruntime = import_onnxruntime()
    folder = ROOT / "build" / "onnxruntime"
    library = folder / "lib" / f"libonnxruntime.so.{onnxruntime.__version__}"
    return folder if library.exists() else None


def require_onnxruntime() -> None:
    """Skip where C++ is built without ONNX Runtime."""
    if onnxruntime_root() is None:
        pytest.skip("C++ is not built on ONNX Runtime without 'make build/onnxruntime'")


@functools.cache
def built(kind: str = "test", *targets: str) -> Path:
    """Return the folder of a build: "test", "asan" with the sanitizers, or "onnxruntime" on that alone.

    The first build takes a minute or two; later ones only what was changed.
    """
    require_toolchain()
    folder = ROOT / "build" / f"cpp-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = Path(import_openvino().__file__).parent
    options = {
        "OpenVINO_DIR": wheel / "cmake",
        "CMAKE_DISABLE_FIND_PACKAGE_OpenVINO": "ON" if kind == "onnxruntime" else "OFF",
        "ONNXRUNTIME_ROOT": onnxruntime_root() or "",
        "CMAKE_BUILD_TYPE": "Debug" if kind == "asan" else "Release",
        "CMAKE_CXX_FLAGS_DEBUG": "-O1",  # compiles in three quarters of the time that -O2 takes
        "OVML_SANITIZE": "ON" if kind == "asan" else "OFF",
    }
    configure = ["cmake", "-S", str(SOURCES), "-B", str(folder)]
    if shutil.which("ninja") and not (folder / "Makefile").exists():
        configure += ["-G", "Ninja"]
    configure += [f"-D{name}={value}" for name, value in options.items()]
    build = ["cmake", "--build", str(folder), "--parallel", "2"]
    build += [part for target in targets for part in ("--target", target)]
    with open(folder / ".lock", "w") as lock:  # another process may build, too
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (configure, build):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return folder


def run(
    tool: str | Path, *arguments: object, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a built program; a sanitizer's complaint ends it with 99."""
    options = "exitcode=99:detect_leaks=0:abort_on_error=0"
    environment = {**os.environ, "ASAN_OPTIONS": options, "UBSAN_OPTIONS": "exitcode=99"}
    environment["TBB_ENABLE_SANITIZERS"] = "1"  # or OpenVINO's TBB loads a library as ASan forbids
    return subprocess.run(
        [str(tool), *map(str, arguments)], input=stdin, capture_output=True, env=environment
    )


def pixels(
    tool: Path, manifest: Path, images: Sequence[Path], size: tuple[int, int]
) -> list[np.ndarray | str]:
    """Return what ``tests/pixels.cpp`` makes of images: pixels ``[H, W, 3]``, or an error's text."""
    done = run(tool, manifest, *images)
    assert done.returncode == 0, done.stderr.decode()
    rest, found = done.stdout, []
    for _ in images:
        line, _, rest = rest.partition(b"\n")
        kind, _, value = line.decode().partition(" ")
        if kind == "error":
            found.append(value)
            continue
        assert int(value) == size[0] * size[1] * 3
        found.append(np.frombuffer(rest[: int(value)], np.uint8).reshape(*size, 3))
        rest = rest[int(value) :]
    assert not rest
    return found


class _Selection(ctypes.Structure):
    _fields_ = (("top_k", ctypes.c_size_t), ("threshold", ctypes.c_double))


class CallError(Exception):
    """A call that failed: the code and message of ovml.h."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Tag:
    label: str
    score: float
    query: int


class CTagger:
    """A tagger behind the C interface."""

    def __init__(self, library: Path, bundle: Path, device: str = "auto") -> None:
        self._c = ctypes.CDLL(str(library))
        for name, kind in (
            ("ovml_message", ctypes.c_char_p),
            ("ovml_warning", ctypes.c_char_p),
            ("ovml_label", ctypes.c_char_p),
            ("ovml_vocabulary_id", ctypes.c_char_p),
            ("ovml_score", ctypes.c_double),
            ("ovml_query", ctypes.c_int64),
            ("ovml_count", ctypes.c_size_t),
            ("ovml_close", None),
            ("ovml_free_tags", None),
        ):
            getattr(self._c, name).restype = kind
        self._tagger = ctypes.c_void_p()
        self._call(
            "ovml_open_on", str(bundle).encode(), device.encode(), ctypes.byref(self._tagger)
        )

    def close(self) -> None:
        self._c.ovml_close(self._tagger)

    def use_labels(self, labels: Sequence[str]) -> None:
        array = (ctypes.c_char_p * len(labels))(*(label.encode() for label in labels))
        self._call("ovml_use_labels", self._tagger, array, ctypes.c_size_t(len(labels)))

    def warning(self) -> str:
        return str(self._c.ovml_warning(self._tagger).decode())

    def use_vocabulary(self, source: str) -> None:
        self._call("ovml_use_vocabulary", self._tagger, source.encode())

    def tag(
        self, image: bytes | np.ndarray, top_k: int = 5, threshold: float = -1.0
    ) -> tuple[list[Tag], str]:
        """Return the tags of a file's bytes or of RGB pixels, and the vocabulary's id."""
        tags, selection = ctypes.c_void_p(), _Selection(top_k, threshold)
        last = (ctypes.byref(selection), ctypes.byref(tags))
        if isinstance(image, bytes):
            self._call("ovml_tag_bytes", self._tagger, image, ctypes.c_size_t(len(image)), *last)
        else:
            height, width, _ = image.shape
            stride = ctypes.c_ssize_t(image.strides[0])
            self._call("ovml_tag_rgb", self._tagger, image.ctypes, width, height, stride, *last)
        found = []
        for i in map(ctypes.c_size_t, range(self._c.ovml_count(tags))):
            label = self._c.ovml_label(tags, i).decode()
            found.append(Tag(label, self._c.ovml_score(tags, i), self._c.ovml_query(tags, i)))
        identity = self._c.ovml_vocabulary_id(tags).decode()
        self._c.ovml_free_tags(tags)
        return found, identity

    def pixels(self, image: bytes) -> np.ndarray:
        return self._numbers("ovml_pixels", np.uint8, image, ctypes.c_size_t(len(image)))

    def features(self, pixels: np.ndarray) -> np.ndarray:
        return self._numbers(
            "ovml_features", np.float32, pixels.ctypes, ctypes.c_size_t(len(pixels))
        )

    def logits(self, features: np.ndarray) -> np.ndarray:
        return self._numbers(
            "ovml_logits", np.float32, features.ctypes, ctypes.c_size_t(len(features))
        )

    def _numbers(self, function: str, dtype: type, *arguments: object) -> np.ndarray:
        count, made = ctypes.c_size_t(), np.empty(0, dtype)
        for _ in range(2):  # asked for the size first
            try:
                last = (made.ctypes, ctypes.c_size_t(made.size), ctypes.byref(count))
                self._call(function, self._tagger, *arguments, *last)
                return made
            except CallError as failed:
                if failed.code != 1 or made.size:
                    raise
                made = np.empty(count.value, dtype)
        raise AssertionError("unreachable")

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._c, function)(*arguments)
        if code != 0:
            raise CallError(code, self._c.ovml_message().decode())
