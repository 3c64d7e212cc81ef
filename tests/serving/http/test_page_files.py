"""The web page's files, as the server gives them; what they do in a browser: test_page.py."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_client import Client
from servers import Server, running_server
from shell import ROOT

from ovml_deploy import assets

PAGE = ROOT / "ovml_deploy" / "serving" / "http" / "page"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not (assets.MINI / "bundle.json").is_file():
        pytest.skip("the embedded model is absent")
    with running_server(assets.MINI) as server:
        yield server


def test_the_files_are_guarded_and_can_be_kept(server: Server) -> None:
    client = Client(server.url)
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    names = re.findall(rb'(?:href|src)="([^"]+)"', index.body)
    assert {name.decode() for name in names} == {
        "page/icon.svg",
        "page/page.css",
        "page/page.js",
    }  # relative: a reverse proxy may put the page below a path
    assert b'accept="image/*,.heic,.heif,.hif"' in index.body  # browsers may not know HEIC
    assert not re.search(rb"<script(?![^>]*src)|<style| style=| on\w+=", index.body)
    for path in ("/", "/favicon.ico", "/page/page.css", "/page/page.js", "/page/icon.svg"):
        found = client.get(path)
        policy = found.headers["content-security-policy"]
        assert found.status == 200
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert found.headers["cache-control"] == "no-cache"
        again = client.ask("GET", path, headers={"if-none-match": found.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        other = client.ask("GET", path, headers={"if-none-match": '"other"'})
        assert other.status == 200
        head = client.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(found.body))


@pytest.mark.parametrize(
    "path", ["/page/", "/page/__init__.py", "/page/..%2fapp.py", "/page/%2e%2e"]
)
def test_nothing_else_is_given(server: Server, path: str) -> None:
    reply = Client(server.url).get(path)
    assert (reply.status, json.loads(reply.body)["error"]["kind"]) == (404, "not_found")


def test_it_is_small_and_goes_with_the_package() -> None:
    files: list[Path] = [path for path in PAGE.iterdir() if path.suffix not in (".py", "")]
    assert sum(path.stat().st_size for path in files) < 43_000
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["ovml_deploy"]
    packed = {path for pattern in patterns for path in (ROOT / "ovml_deploy").glob(pattern)}
    assert packed >= set(files)
