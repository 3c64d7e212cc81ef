"""Where the settings of a language model come from, and which are refused."""

import time
from typing import Any

import pytest
from chat_server import ChatServer

from ovml_deploy.errors import UsageError
from ovml_deploy.training.knowledge.endpoint import Settings, find_settings, retry_after


def test_settings_come_from_flags_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"--model or OPENAI_MODEL.*--provider wordnet"):
        find_settings("http://localhost/v1", None, None)
    with pytest.raises(UsageError, match=r"OPENAI_API_KEY or with --api-key.*--provider wordnet"):
        find_settings(None, "m", None)
    local = find_settings("http://localhost/v1", "m", None, timeout=None, max_requests=3)
    assert local == Settings("m", "none", "http://localhost/v1", 60.0, 8, 3)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_MODEL", "n")
    assert find_settings(None, None, None) == Settings("n", "k", "http://there/v1")
    assert find_settings("http://here", "m", "j") == Settings("m", "j", "http://here")
    assert "'k'" not in repr(find_settings(None, None, None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost:8000"}, "base URL 'localhost:8000' is not like"),
        ({"base_url": "http://"}, "is not like"),
        ({"base_url": "http://["}, "is not like"),
        ({"base_url": "http://h:99999/v1"}, "is not like"),
        ({"base_url": "file:///etc/passwd"}, "is not like"),
        ({"timeout": 0.0}, "--timeout is 0"),
        ({"timeout": float("nan")}, "--timeout is nan"),
        ({"concurrency": 0}, "--concurrency"),
        ({"api_key": "k\u00e9y"}, "key holds characters"),
        ({"api_key": "key\n"}, "key holds characters"),
    ],
)
def test_settings_that_make_no_sense(ask, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ask(**changes)


def test_the_source_names_no_password(ask, server: ChatServer) -> None:
    url = server.url.replace("http://", "http://me:pass@")
    assert "pass" not in ask(base_url=url).knowledge.source


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "-3"}) == 0
    for value in ("", "soon", "nan", "inf", "Mon, 99 Foo 2020"):
        assert retry_after({"retry-after": value}) is None
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90))
    assert 85 < (retry_after({"retry-after": date}) or 0) <= 90
