"""A server below a reverse proxy's path: the API, its document, and the page in a real browser."""

import base64
import json
from collections.abc import Iterator

import pytest
from http_client import Client
from reverse_proxy import reverse_proxy
from servers import Server, running_server

from ovml_deploy import assets
from ovml_deploy.errors import UsageError
from ovml_deploy.serving.settings import Settings

if not (assets.MINI / "bundle.json").is_file():
    pytest.skip("the embedded model is absent", allow_module_level=True)

PREFIX = "/hall/tagger"
CAT = next(path for path in assets.sample_photographs() if path.stem == "cat")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(assets.MINI, "--root-path", PREFIX) as server:
        yield server


def tags_of(url: str, path: str) -> list[str]:
    image = base64.b64encode(CAT.read_bytes()).decode()
    return [
        tag["label"] for tag in Client(url).post(path, images=[image]).json["results"][0]["tags"]
    ]


def test_the_api_answers_with_and_without_the_prefix(server: Server) -> None:
    tags = tags_of(server.url, "/v1/tag")
    assert len(tags) == 5
    assert tags_of(server.url, f"{PREFIX}/v1/tag") == tags
    client = Client(server.url)
    assert client.get(f"{PREFIX}/readyz").status == client.get("/readyz").status == 200
    assert client.get(f"{PREFIX}x/readyz").status == 404


def test_the_prefix_alone_is_redirected_to_its_folder(server: Server) -> None:
    reply = Client(server.url).get(PREFIX)
    assert (reply.status, reply.headers["location"]) == (308, f"{PREFIX}/")


def test_no_redirect_leaves_the_proxy(server: Server) -> None:
    assert Client(server.url).get(f"{PREFIX}/v1/vocabularies/").kind == "not_found"


def test_the_openapi_document_names_the_prefix(server: Server) -> None:
    document = json.loads(Client(server.url).get(f"{PREFIX}/openapi.json").body)
    assert document["servers"] == [{"url": PREFIX}]


@pytest.mark.parametrize(
    "path", ["tagger", "/tagger/", "/", "//a", "/a b", "http://x/tagger", "/a?b"]
)
def test_other_prefixes_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match=r"root path is .*'/tagger'"):
        Settings(root_path=path)


@pytest.mark.parametrize("strip", [True, False], ids=["stripped", "kept"])
def test_the_page_works_below_the_prefix(server: Server, strip: bool) -> None:
    browsers = pytest.importorskip("browser", reason="playwright is not installed")
    if browsers.CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian's package 'chromium')")
    with (
        reverse_proxy(server.url, PREFIX, strip) as proxy,
        browsers.chromium() as browser,
        browsers.visit(browser, f"{proxy}{PREFIX}{'/' if strip else ''}") as page,
    ):
        page.add(CAT)
        assert [*page.tags()] == tags_of(server.url, "/v1/tag")
        page.write("cat, dog")
        assert {*page.tags()} == {"cat", "dog"}
        assert page.problems == []
        assert {path.startswith(f"{PREFIX}") for _, path in page.requests} == {True}
