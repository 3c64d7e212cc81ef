"""``ovml-deploy knowledge``."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ovml_deploy import output
from ovml_deploy.commandline import (
    INTERRUPTED,
    SOME_FAILED,
    command,
    count,
    needs_extra,
    number,
)
from ovml_deploy.errors import UsageError
from ovml_deploy.files import may_be_written

if TYPE_CHECKING:
    from ovml_deploy.training.knowledge.ask import Tally
    from ovml_deploy.training.knowledge.file import Knowledge

_MOST_SENTENCES = 100


@command(sentences=count, max_requests=count, concurrency=count, seed=count, timeout=number)
def knowledge_command(
    labels: str,
    out: str = "knowledge.json",
    provider: str = "openai",
    sentences: int = 16,
    base_url: str | None = None,
    model: str | None = None,
    api_key: str | None = None,
    questions: str | None = None,
    max_requests: int | None = None,
    concurrency: int | None = None,
    cache: str | None = None,
    seed: int = 0,
    timeout: float | None = None,
) -> int:
    """Gather what a language model (or WordNet) knows of categories, to train on without images.

    Every answer is kept as it comes: the same command, run again after whatever stopped it, goes
    on where it was and asks nothing twice.

    Args:
        labels: a label file: text with one category a line, .json or .csv (docs/labels.md)
        out: the JSON file to write
        provider: openai, which is any endpoint that speaks like OpenAI's, or wordnet, which needs
            no network
        sentences: so many sentences are asked for each category
        base_url: where the endpoint is, as http://localhost:8000/v1; default: OPENAI_BASE_URL
        model: the model's name there; default: OPENAI_MODEL
        api_key: better given in OPENAI_API_KEY, where other users do not see it; a server of your
            own needs none
        questions: a folder with your own agnostic.txt, category.txt and relation.txt
        max_requests: the budget: at most so many requests are sent, retries among them
        concurrency: questions on their way at once; default: 8
        cache: the folder answers are kept in; default: answers in the cache folder (OVML_CACHE)
        seed: another one asks, or draws, anew
        timeout: seconds to wait for an answer; default: 60
    """
    if not 1 <= sentences <= _MOST_SENTENCES:
        raise UsageError(f"--sentences is {sentences}; it must be 1 to {_MOST_SENTENCES}.")
    _check_out(Path(out))
    only_openai = {
        "base-url": base_url,
        "model": model,
        "api-key": api_key,
        "questions": questions,
        "max-requests": max_requests,
        "concurrency": concurrency,
        "cache": cache,
        "timeout": timeout,
    }
    if provider == "wordnet":
        for name, value in only_openai.items():
            if value is not None:
                raise UsageError(f"--provider wordnet asks nobody; leave --{name} away.")
        return _from_wordnet(labels, out, sentences, seed)
    if provider != "openai":
        raise UsageError(f"--provider is {provider!r}; there are openai and wordnet.")
    with needs_extra("knowledge"):
        from ovml_deploy.training.knowledge.endpoint import find_settings
        from ovml_deploy.training.knowledge.llm import llm_knowledge
    from ovml_deploy.runtime.label_files import read_labels
    from ovml_deploy.training.interrupt import RunInterruptedError
    from ovml_deploy.training.knowledge.file import write_knowledge
    from ovml_deploy.training.knowledge.questions import FOLDER, Questions

    settings = find_settings(
        base_url,
        model,
        api_key,
        max_requests=max_requests,
        concurrency=concurrency,
        timeout=timeout,
    )
    try:
        gathered = llm_knowledge(
            read_labels(labels),
            settings,
            sentences=sentences,
            questions=Questions.load(questions or FOLDER),
            cache_folder=Path(cache) if cache else None,
            seed=seed,
        )
    except RunInterruptedError as stopped:
        print(f"interrupted. {stopped}", file=sys.stderr)
        return INTERRUPTED
    write_knowledge(gathered.knowledge, out)
    _print_summary(gathered.knowledge, out, _asking(gathered.tally, gathered.skipped))
    return _tell_what_is_missing(gathered.tally)


def _from_wordnet(labels: str, out: str, sentences: int, seed: int) -> int:
    from ovml_deploy.runtime.label_files import read_labels
    from ovml_deploy.training.knowledge.file import write_knowledge
    from ovml_deploy.training.knowledge.lexical import lexical_knowledge

    names = read_labels(labels)
    knowledge = lexical_knowledge(names, sentences_per_category=sentences, seed=seed)
    write_knowledge(knowledge, out)
    _print_summary(knowledge, out, [])
    return 0


def _check_out(target: Path) -> None:
    """Raise UsageError before answers are paid for that could not be written."""
    if not may_be_written(target):
        raise UsageError(
            f"The knowledge cannot be written to {str(target)!r}: that is a folder, or lies in none "
            "that you may write to. Name another place with --out."
        )


def _asking(tally: "Tally", skipped: Counter[str]) -> list[tuple[str, str]]:
    return [
        ("questions", f"{tally.questions:,}"),
        ("requests sent", f"{tally.sent:,}"),
        ("answers from the cache", f"{tally.known:,}"),
        ("questions that failed", f"{tally.failed:,}"),
        *(
            (f"left out: {reason}", f"{count:,}")
            for reason, count in sorted(skipped.items())
            if count
        ),
    ]


def _print_summary(knowledge: "Knowledge", out: str, asking: list[tuple[str, str]]) -> None:
    mentioned = Counter(name for item in knowledge.sentences for name in item.categories)
    none = [name for name in knowledge.names if not mentioned[name]]
    rows = [
        ("source", knowledge.source),
        ("categories", f"{len(knowledge.categories):,}"),
        ("sentences", f"{len(knowledge.sentences):,}"),
        ("sentences per category", f"{mentioned.total() / len(knowledge.categories):.1f}"),
        ("categories without a sentence", f"{len(none):,}{_first(none)}"),
        ("relations", f"{len(knowledge.relations):,}"),
        *asking,
    ]
    output.print_rows("", ("", ""), rows)
    print(f"{out}: {len(knowledge.sentences):,} sentences")


def _first(names: list[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _tell_what_is_missing(tally: "Tally") -> int:
    if tally.unasked:
        print(
            f"The budget is spent: {tally.questions - tally.unasked:,} of {tally.questions:,} "
            "questions were asked. To go on, run the same command again, with a --max-requests for "
            "the rest; what is answered costs nothing.",
            file=sys.stderr,
        )
    if tally.failed:
        print(
            f"{tally.failed:,} questions failed, the last with: {tally.last_failure}. Run the same "
            "command again to ask only these.",
            file=sys.stderr,
        )
    return SOME_FAILED if tally.unasked or tally.failed else 0
