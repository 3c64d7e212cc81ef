"""Knowledge from a language model: the three kinds of questions of arXiv 2403.01209."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovml_deploy.errors import DataError, EndpointError
from ovml_deploy.training.interrupt import StopRequest
from ovml_deploy.training.knowledge.answer_cache import AnswerCache
from ovml_deploy.training.knowledge.answers import Answer, read_answer
from ovml_deploy.training.knowledge.ask import Asker, Tally
from ovml_deploy.training.knowledge.assemble import assemble
from ovml_deploy.training.knowledge.endpoint import Endpoint, Settings
from ovml_deploy.training.knowledge.file import Knowledge, check_categories
from ovml_deploy.training.knowledge.questions import Questions, fill
from ovml_deploy.training.reporting import Reporter

_BATCH = 10  # categories in a question about relations
_MOST_LISTED = 200  # categories that such a question lists, to choose from
#: Where the answer about them cannot be used.
_ATTRIBUTES = (
    "color",
    "shape",
    "size",
    "material",
    "texture",
    "pattern",
    "age",
    "posture",
    "state",
)
_CONTEXTS = ("place", "surroundings", "weather", "time of day", "activity", "company", "viewpoint")


@dataclass(frozen=True)
class Gathered:
    """Knowledge, what asking for it took, and what of the answers was left out, by reason."""

    knowledge: Knowledge
    tally: Tally
    skipped: Counter[str]


def llm_knowledge(
    names: Iterable[str],
    settings: Settings,
    *,
    sentences: int = 16,
    questions: Questions | None = None,
    cache_folder: Path | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Gathered:
    """Ask a language model about categories: first what matters at all, then of each, then of many.

    Another ``seed`` asks anew, whatever is in the cache. Where the budget is spent or a question
    fails, the knowledge is of the answers there are; the tally tells.

    Raises LabelError (see :func:`check_categories`), DataError where no sentence can be used,
    EndpointError where the model refuses, RunInterruptedError after Ctrl-C or SIGTERM.
    """
    checked = check_categories(names)
    questions = questions or Questions.load()
    endpoint = Endpoint(settings)
    cache = AnswerCache(endpoint.address, settings.model, f"seed {seed}", cache_folder)
    with StopRequest() as stop:
        asker = Asker(endpoint, settings, cache, reporter or Reporter(), stop)
        source = f"{settings.model} at {endpoint.address}"
        gathered = _gather(checked, asker, questions, sentences, seed, source)
    endpoint.close()  # not after an interruption: it might wait for what is on its way
    return gathered


def _gather(
    names: Sequence[str],
    asker: Asker,
    questions: Questions,
    sentences: int,
    seed: int,
    source: str,
) -> Gathered:
    skipped = Counter[str]()
    kinds = _what_matters(asker, questions, skipped)
    about = [
        fill(
            questions.category,
            category=name,
            attributes=", ".join(kinds.attributes),
            contexts=", ".join(kinds.contexts),
            sentences=sentences,
        )
        for name in names
    ]
    between = [
        fill(
            questions.relation,
            batch=", ".join(batch),
            categories=", ".join(listed),
            sentences=sentences,
        )
        for batch, listed in batches(names, seed)
    ]
    texts = asker.ask([*about, *between], "asking")
    if asker.tally.known + asker.tally.answered < 2:
        raise DataError(_no_answers(asker))
    answers = [
        Answer() if text is None else read_answer(text, sentences, skipped) for text in texts
    ]
    knowledge = assemble(names, answers[: len(names)], answers[len(names) :], source, skipped)
    return Gathered(knowledge, asker.tally, skipped)


def _what_matters(asker: Asker, questions: Questions, skipped: Counter[str]) -> Answer:
    """The kinds of attributes and contexts that the other questions are put in terms of.

    Those follow from its words, so without it none of them is asked: a rerun would ask them anew.
    """
    (text,) = asker.ask([questions.agnostic], "asking what matters")
    if text is None and asker.tally.failed:
        raise EndpointError(
            f"The language model does not answer: {asker.tally.last_failure}. {asker.kept()}"
        )
    if text is None:
        raise DataError(_no_answers(asker))
    answer = read_answer(text, 0, skipped)
    return Answer(
        attributes=answer.attributes or _ATTRIBUTES, contexts=answer.contexts or _CONTEXTS
    )


def _no_answers(asker: Asker) -> str:
    tally = asker.tally
    reason = f" {tally.failed} failed, at last with: {tally.last_failure}." if tally.failed else ""
    return (
        f"There is no answer about any category; {tally.sent} requests were sent.{reason} Give a "
        f"larger --max-requests, if that was the limit. {asker.kept()}"
    )


def batches(names: Sequence[str], seed: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield some categories, and those among which to look for their relatives.

    These are all, or a random share with the batch itself, in their order, where they are many.
    """
    if len(names) < 2:
        return
    for start in range(0, len(names), _BATCH):
        batch = list(names[start : start + _BATCH])
        if len(names) <= _MOST_LISTED:
            yield batch, list(names)
            continue
        others = [row for row in range(len(names)) if not start <= row < start + _BATCH]
        draw = random.Random(f"{seed} {start}").sample(others, _MOST_LISTED - len(batch))
        rows = sorted([*draw, *range(start, start + len(batch))])
        yield batch, [names[row] for row in rows]
