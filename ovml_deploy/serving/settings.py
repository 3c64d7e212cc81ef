"""What a server is told when it starts."""

import ipaddress
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ovml_deploy.errors import UsageError
from ovml_deploy.runtime.threads import available_cpus
from ovml_deploy.serving.vocabularies import Limits

_KEY = "OVML_API_KEY"
_KEY_FILE = "OVML_API_KEY_FILE"
_SHORTEST_KEY = 16
_COUNTS = (
    "max_batch", "max_queue", "decoders", "max_images", "max_connections", "max_body",
    "max_bytes_inside", "max_pixels",
)  # fmt: skip
#: Segments of unreserved characters: a prefix that needs no quoting, in an URL as in HTTP's path.
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_TIMES = ("max_delay", "head_timeout", "body_timeout", "request_timeout", "drain")


@dataclass(frozen=True)
class Settings:
    """How a server behaves; seconds, bytes and counts. Raises UsageError for what makes no sense.

    ``max_queue``: images inside at once, from a request's arrival to its answer; ``max_delay``: what
    an idle engine waits for others, where less than half are there; ``state``: the folder that keeps
    vocabularies, None to forget them at the end; ``root_path``: the path below which a reverse proxy
    shows the server, such as "/tagger".
    """

    max_batch: int = 8
    max_delay: float = 0.002
    max_queue: int = 64
    decoders: int = field(default_factory=available_cpus)
    max_body: int = 32 << 20
    max_bytes_inside: int = 512 << 20
    max_pixels: int = 50_000_000
    max_images: int = 32
    max_inline_labels: int = 1000
    max_connections: int = 1000
    head_timeout: float = 15.0
    body_timeout: float = 20.0
    request_timeout: float = 60.0
    drain: float = 30.0
    state: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    root_path: str = ""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in _TIMES:
            if not 0 <= getattr(self, name) < math.inf:
                text = "it cannot be negative, nor without end."
                raise UsageError(f"{name} is {getattr(self, name)} s; {text}")

        if not _ROOT_PATH.fullmatch(self.root_path):
            raise UsageError(
                f"The root path is {self.root_path!r}. Write it as in '/tagger': with a slash before each "
                "part and none at the end, in letters, digits and '._~-'."
            )

    @property
    def images_a_request(self) -> int:
        """More would never fit inside."""
        return min(self.max_images, self.max_queue)


def read_api_key(file: str | None = None) -> str | None:
    """Return the key in a file, or in the one that OVML_API_KEY_FILE names, or in OVML_API_KEY."""
    path = file or os.environ.get(_KEY_FILE)
    if path is None and _KEY not in os.environ:
        return None
    key = os.environ.get(_KEY, "") if path is None else Path(path).read_text("utf-8", "replace")
    key = key.strip()
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable():
        where = f"in {path}" if path else f"of {_KEY}"
        raise UsageError(
            f"The API key {where} must have {_SHORTEST_KEY} ASCII characters or more. Make one: "
            "openssl rand -hex 32"
        )
    return key


def check_address(host: str, api_key: str | None, insecure: bool) -> None:
    """Refuse to serve others than this machine without a key, unless told to. Raises UsageError."""
    if api_key is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"{host!r} may be reached from other machines, and there is no API key. Give one with "
            f"--api-key-file or {_KEY}, or say --insecure where something else keeps strangers out."
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
