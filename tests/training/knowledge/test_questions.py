"""The questions: shipped as files, filled in, and yours to edit."""

import shutil
from pathlib import Path

import pytest

from ovml_deploy.errors import UsageError
from ovml_deploy.training.knowledge.llm import batches
from ovml_deploy.training.knowledge.questions import FOLDER, Questions, fill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "questions"))


def test_the_shipped_questions_can_be_filled_in() -> None:
    questions = Questions.load()
    assert fill(questions.agnostic) == questions.agnostic
    asked = fill(
        questions.category, category="{cat}", attributes="hue", contexts="place", sentences=7
    )
    assert "photographs that show: {cat}\n" in asked  # braces in a value stay
    assert '["7 captions' in asked
    assert "kinds of '{cat}' that one can see" in asked
    asked = fill(questions.relation, batch="cat, dog", categories="cat, dog, car", sentences=3)
    assert "show:\ncat, dog\n" in asked
    assert "\ncat, dog, car\n" in asked
    for text in (questions.agnostic, asked):
        assert '{"' in text  # the braces of the example are no placeholders


def test_a_copy_can_be_edited(folder: Path) -> None:
    (folder / "category.txt").write_text("Was wei\u00dft du \u00fcber {category}?", "utf-8")
    questions = Questions.load(folder)
    assert fill(questions.category, category="Hund") == "Was wei\u00dft du \u00fcber Hund?"
    assert questions.relation == Questions.load().relation


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("category.txt", None, r"no questions in '.*category\.txt'.*Copy the folder"),
        ("agnostic.txt", None, r"no questions in '.*agnostic\.txt'"),
        ("category.txt", " \n", "are empty"),
        ("category.txt", "What of {kategory}?", r"\{kategory\}, which is not known.*\{category\}"),
        ("relation.txt", "{batch} {category}", r"\{category\}, which is not known"),
        ("agnostic.txt", "{category}", "This file has none"),
        ("category.txt", "What of it?", r"lacks the placeholder \{category\}"),
        ("relation.txt", "{categories}", r"lacks the placeholder \{batch\}"),
        ("relation.txt", b"\xff{batch}", "not UTF-8"),
    ],
)
def test_bad_questions_are_refused(
    folder: Path, file: str, text: str | bytes | None, message: str
) -> None:
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message):
        Questions.load(folder)


def test_every_category_is_in_a_batch_and_a_short_list_is_shown_whole() -> None:
    names = [f"thing {n}" for n in range(23)]
    found = list(batches(names, seed=0))
    assert [name for batch, _ in found for name in batch] == names
    assert all(listed == names for _, listed in found)
    assert list(batches(["one"], seed=0)) == []  # related to nothing


def test_of_a_long_list_each_batch_sees_itself_and_some_others() -> None:
    names = [f"thing {n}" for n in range(1000)]
    found = list(batches(names, seed=0))
    assert [name for batch, _ in found for name in batch] == names
    for batch, listed in found:
        assert set(batch) < set(listed)
        assert len(listed) == 200
        assert listed == sorted(listed, key=names.index)
    assert found == list(batches(names, seed=0))
    assert found != list(batches(names, seed=1))
    assert len({name for _, listed in found for name in listed}) == 1000
