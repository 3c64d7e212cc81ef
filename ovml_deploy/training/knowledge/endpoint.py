"""One question to a language model behind an OpenAI-compatible endpoint, over HTTP."""

import email.utils
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import openai

from ovml_deploy.errors import UsageError

_SHOWN = 200  # characters of a server's message
#: Statuses that say the next question will fare no better: wrong key, no money, wrong address.
_HOPELESS = (401, 402, 403, 404, 405)
_WORTH_RETRYING = (408, 409, 425, 429)


@dataclass(frozen=True)
class Settings:
    """Which model answers, and how it is asked.

    ``base_url`` None is the openai package's own. ``max_requests`` None is without limit.
    """

    model: str
    api_key: str = field(repr=False)
    base_url: str | None = None
    timeout: float = 60.0
    concurrency: int = 8
    max_requests: int | None = None
    attempts: int = 6
    first_wait: float = 1.0  # seconds before the second attempt; doubled for each further one

    def __post_init__(self) -> None:
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("The endpoint's key holds characters that no key has; copy it anew.")
        if not 0 < self.timeout < math.inf:
            raise UsageError(f"--timeout is {self.timeout}; it must be more than 0 seconds.")
        if self.concurrency < 1:
            raise UsageError("--concurrency must be at least 1.")


def find_settings(
    base_url: str | None, model: str | None, api_key: str | None, **others: float | int | None
) -> Settings:
    """Complete what was given from OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY.

    Raises UsageError where the model or the key is missing. With a base URL the key may be: a
    local server asks for none.
    """
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
    model = model or os.environ.get("OPENAI_MODEL")
    api_key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)
    without = "To do without a language model, give --provider wordnet."
    if not model:
        raise UsageError(
            f"Name the language model with --model or OPENAI_MODEL, and where it is with --base-url "
            f"or OPENAI_BASE_URL. {without}"
        )
    if not api_key:
        raise UsageError(
            "Give the endpoint's key in OPENAI_API_KEY or with --api-key. A server of your own needs "
            f"none, only its --base-url, such as http://localhost:8000/v1. {without}"
        )
    chosen = {name: value for name, value in others.items() if value is not None}
    return Settings(model, api_key, base_url, **chosen)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Failure:
    """Why an attempt brought no answer, and what may help.

    ``wait`` is how long the server asked to be left alone. ``hopeless``: no question will be
    answered. ``retry``: this one may be, later.
    """

    reason: str
    retry: bool = False
    hopeless: bool = False
    wait: float | None = None


class Endpoint:
    """A connection to a model; safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        _check_url(settings.base_url)
        self._client = openai.OpenAI(
            api_key=settings.api_key,
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,  # each request counts, and a wait must end when a person asks
        )

    @property
    def address(self) -> str:
        """The base URL without the user, password and query it may hold."""
        parts = urlsplit(str(self._client.base_url))
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/")

    def send(self, question: str) -> str | Failure:
        """Send one request; return the answer's text, or why there is none."""
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=self._settings.model, messages=[{"role": "user", "content": question}]
            )
            body = response.http_response.text
            content = _content(body)
            if content is None:
                return Failure(self._shown(f"no chat completion, but: {body[: 2 * _SHOWN]}"))
            return content
        except openai.APITimeoutError:
            return Failure(f"no answer within {self._settings.timeout:g} s", retry=True)
        except openai.APIStatusError as error:
            return self._refused(error)
        except openai.OpenAIError as error:  # no connection, or one that broke
            return Failure(self._shown(f"{error} {error.__cause__ or ''}"), retry=True)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _refused(self, error: openai.APIStatusError) -> Failure:
        status = error.status_code
        return Failure(
            self._shown(f"status {status}: {error.message}"),
            retry=status in _WORTH_RETRYING or status >= 500,
            hopeless=status in _HOPELESS,
            wait=retry_after(error.response.headers),
        )

    def _shown(self, message: str) -> str:
        """A foreign text made fit for a terminal, without the key."""
        message = " ".join(message.replace(self._settings.api_key, "***").split())
        printable = "".join(c if c.isprintable() else "?" for c in message)
        return printable if len(printable) <= _SHOWN else f"{printable[:_SHOWN]}..."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that Retry-After asks to wait (a number or an HTTP date), or None."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _check_url(url: str | None) -> None:
    try:
        parts = urlsplit(url or "http://localhost")
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"The base URL {url!r} is not like http://localhost:8000/v1.")


def _content(body: str) -> str | None:
    """The text in a chat completion, None in anything else. No text (a refusal) is an empty one."""
    try:
        content = json.loads(body)["choices"][0]["message"].get("content")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    return content if isinstance(content, str) else ""
