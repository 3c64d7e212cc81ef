"""The web page at ``/``: files of this folder, that a browser may keep but must ask about."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from ovml_deploy.serving.http.problems import Problem

router = APIRouter(include_in_schema=False)

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_METHODS = ["GET", "HEAD"]

#: Only what this server gives runs or is shown; ``blob:`` is a picture that the user chose.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # keep it, and ask by ETag: a newer server has a newer page
}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> "_File":
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        return cls(content, _TYPES[path.suffix], f'"{digest}"')


#: Read once, by name: no request reaches the file system.
_FILES = {
    path.name: _File.read(path)
    for path in sorted(Path(__file__).parent.iterdir())
    if path.suffix in _TYPES
}


@router.api_route("/", methods=_METHODS)
async def page(request: Request) -> Response:
    """Return the page."""
    return _answer(request, "index.html")


@router.api_route("/favicon.ico", methods=_METHODS)
async def icon(request: Request) -> Response:
    """Return the icon, which browsers ask for unasked."""
    return _answer(request, "icon.svg")


@router.api_route("/page/{file}", methods=_METHODS)
async def part(request: Request, file: str) -> Response:
    """Return a file of the page."""
    return _answer(request, file)


def _answer(request: Request, name: str) -> Response:
    file = _FILES.get(name)
    if file is None:
        raise Problem(404, "not_found", "The page has no such file.")
    headers = {**_HEADERS, "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
