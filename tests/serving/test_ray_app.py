"""The server on a real Ray: two replicas in processes of their own, behind Ray's proxy."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from local_ray import local_ray
from pydantic import ValidationError

from ovml_deploy.errors import LabelError, UsageError
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.serving.ray_app import Arguments, build_app

pytest.importorskip("ray.serve", reason="ray[serve] is not installed")

KEY = "0123456789abcdef" * 2
WORDS = ("a small boat", "traffic light", "cat")


class Client:
    """Requests to Ray's proxy."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def __call__(
        self, method: str, path: str, body: bytes | None = None, kind: str = "image/jpeg"
    ) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {KEY}", "content-type": kind}
        request = Request(self.address + path, body, headers, method=method)
        try:
            with urlopen(request) as answer:
                return answer.status, _content(answer)
        except HTTPError as error:
            return error.code, _content(error)

    def replicas(self, count: int) -> set[str]:
        """When the processes that answer were started: asked until there are so many."""
        found: set[str] = set()
        for _ in range(500):
            _, text = self("GET", "/metrics")
            found |= {*re.findall(r"^process_start_time_seconds (.*)$", text, re.MULTILINE)}
            if len(found) >= count:
                break
        return found


def _content(answer: Any) -> Any:
    body = answer.read().decode()
    return json.loads(body) if "json" in answer.headers["content-type"] else body


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "My Words.txt"
    path.write_text("\n".join(WORDS))
    return path


@pytest.fixture(scope="module")
def arguments(
    tiny_bundle: Path, words: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """As ``serve run`` gives them: texts."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(KEY)
    return {
        "engine": str(tiny_bundle),
        "replicas": "2",
        "cpus": "0.5",
        "vocab": str(words),
        "api_key_file": str(key),
        "max_batch": "4",
    }


@pytest.fixture(scope="module")
def client(arguments: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    from ray import serve

    no_torch = tmp_path_factory.mktemp("no-torch")
    (no_torch / "torch.py").write_text("raise ImportError('a replica needs no torch')")
    port = _free_port()
    with local_ray(2, {"PYTHONPATH": str(no_torch)}):
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            deploy(arguments)
            yield Client(port)
        finally:
            serve.shutdown()


def deploy(arguments: dict[str, str], user_config: dict[str, Any] | None = None) -> None:
    """What ``serve deploy`` does with a configuration file."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    application: dict[str, Any] = {
        "name": "ovml",
        "route_prefix": "/",
        "import_path": "ovml_deploy.serving.ray_app:build_app",
        "args": arguments,
    }
    if user_config is not None:
        application["deployments"] = [{"name": "ovml-deploy", "user_config": user_config}]
    schema = ServeDeploySchema.model_validate({"applications": [application]})
    _get_global_client().deploy_apps(schema, _blocking=True)


def tag(client: Client, picture: Path, query: str = "") -> list[list[Any]]:
    """The tags of a picture, as both replicas give them."""
    answers = set()
    for _ in range(12):
        status, found = client("POST", f"/v1/tag?top_k=3{query}", picture.read_bytes())
        assert status == 200, found
        (result,) = found["results"]
        answers.add(json.dumps([[t["label"], round(t["logit"], 4)] for t in result["tags"]]))
    assert len(answers) == 1
    return json.loads(answers.pop())


def test_two_replicas(
    client: Client, arguments: dict[str, str], tiny_tagger: Tagger, pictures: list[Path]
) -> None:
    """One test, for tests may run in several processes, and each would start Ray."""
    _tags_are_the_taggers(client, tiny_tagger, pictures)
    _the_guard_stands_before_each(client)
    _what_one_alone_would_know_is_refused(client)
    _user_config_changes_the_words_of_all(client, arguments, tiny_tagger, pictures)


def _tags_are_the_taggers(client: Client, tiny_tagger: Tagger, pictures: list[Path]) -> None:
    assert len(client.replicas(2)) == 2
    vocabulary = tiny_tagger.make_vocabulary(WORDS)
    others = tiny_tagger.make_vocabulary(["one more", "dog"])
    for picture in pictures[:2]:
        for query, words in (("", vocabulary), (f"&labels={quote('one more,dog')}", others)):
            found = tag(client, picture, query)
            tags = tiny_tagger.tag(picture, top_k=3, vocabulary=words)
            assert [label for label, _ in found] == [each.label for each in tags]
            assert [logit for _, logit in found] == pytest.approx(
                [each.logit for each in tags], abs=2e-4
            )


def _the_guard_stands_before_each(client: Client) -> None:
    request = Request(f"{client.address}/v1/model")
    with pytest.raises(HTTPError) as refused:
        urlopen(request)
    assert refused.value.code == 401
    with urlopen(f"{client.address}/readyz") as answer:
        assert answer.status == 200


def _what_one_alone_would_know_is_refused(client: Client) -> None:
    body = json.dumps({"labels": ["mine"]}).encode()
    for method, path, content in (
        ("PUT", "/v1/vocabularies/mine", body),
        ("POST", "/v1/vocabularies/few/activate", b""),
        ("DELETE", "/v1/vocabularies/my-words", None),
    ):
        status, answer = client(method, path, content, "application/json")
        assert (status, answer["error"]["kind"]) == (409, "fixed")
        assert "user_config" in answer["error"]["message"]
    status, answer = client("GET", "/v1/vocabularies")
    found = {each["name"]: each["active"] for each in answer["vocabularies"]}
    assert (status, found) == (200, {"few": False, "my-words": True, "others": False})


def _user_config_changes_the_words_of_all(
    client: Client, arguments: dict[str, str], tiny_tagger: Tagger, pictures: list[Path]
) -> None:
    before = client.replicas(2)
    for labels in (["plum", "pear", "fig"], ["quince"]):
        deploy(arguments, {"name": "next", "labels": labels})
        assert client.replicas(2) == before  # the same processes
        found = tag(client, pictures[0])
        vocabulary = tiny_tagger.make_vocabulary(labels)
        tags = tiny_tagger.tag(pictures[0], top_k=3, vocabulary=vocabulary)
        assert [label for label, _ in found] == [each.label for each in tags]


def test_without_a_key(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVML_API_KEY", raising=False)
    monkeypatch.delenv("OVML_API_KEY_FILE", raising=False)
    with pytest.raises(UsageError, match="insecure=true"):
        build_app(Arguments(engine=str(tiny_bundle)))
    app = build_app(Arguments(engine=str(tiny_bundle), insecure="true"))
    assert type(app).__name__ == "Application"


def test_arguments_that_make_no_sense(arguments: dict[str, str], tmp_path: Path) -> None:
    for wrong in ({"replicas": "0"}, {"replica": "2"}, {"max_batch": "many"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Arguments(**{**arguments, **wrong})
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(LabelError, match="no labels"):
        build_app(Arguments(**{**arguments, "vocab": str(empty)}))


def test_importing_it_needs_neither_torch_nor_ray() -> None:
    block = "import sys; sys.modules['torch'] = sys.modules['ray'] = None"
    subprocess.run(
        [sys.executable, "-c", f"{block}; import ovml_deploy.serving.ray_app"], check=True
    )
