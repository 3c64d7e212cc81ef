"""Where copies go, and the places that are refused."""

from pathlib import Path

import pytest

from ovml_deploy.errors import UsageError
from ovml_deploy.pipelines.keywords.places import leads_out, plan_copies


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """Folders of photos, as the working directory."""
    for name in ("a/1.jpg", "a/deep/er/2.jpg", "b/1.jpg", "b/3.png", "4.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["a"], {"a/1.jpg": "1.jpg", "a/deep/er/2.jpg": "deep/er/2.jpg"}),
        (["./a/", "a/1.jpg"], {"a/1.jpg": "1.jpg", "a/deep/er/2.jpg": "deep/er/2.jpg"}),
        (["a/deep"], {"a/deep/er/2.jpg": "er/2.jpg"}),
        (["b/*.jpg"], {"b/1.jpg": "1.jpg"}),
        (["?/*.jpg"], {"a/1.jpg": "a/1.jpg", "b/1.jpg": "b/1.jpg"}),
        (["a/**/2.jpg"], {"a/deep/er/2.jpg": "deep/er/2.jpg"}),
        (["a", "b"], {**{f"a/{n}": f"a/{n}" for n in ("1.jpg", "deep/er/2.jpg")},
                      "b/1.jpg": "b/1.jpg", "b/3.png": "b/3.png"}),
        (["b/1.jpg"], {"b/1.jpg": "1.jpg"}),
        (["b/1.jpg", "4.jpg"], {"b/1.jpg": "b/1.jpg", "4.jpg": "4.jpg"}),
        (["b/../4.jpg"], {"b/../4.jpg": "4.jpg"}),
        (["absent.jpg"], {"absent.jpg": "absent.jpg"}),
    ],
)  # fmt: skip
def test_folders_stay_as_they_are(here: Path, names: list[str], places: dict[str, str]) -> None:
    assert {p.source: str(p.target) for p in plan_copies(names, "out").places} == {
        source: f"out/{target}" for source, target in places.items()
    }


def test_absolute_and_relative_names_are_one_file(here: Path) -> None:
    (place,) = plan_copies(["b/1.jpg", f"{here}/b/1.jpg"], "out").places
    assert (place.source, place.target) == ("b/1.jpg", Path("out/1.jpg"))


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        ([], "out", "No images are named"),
        (["a"], "a", "lies in 'a', whose photos are copied"),
        (["a"], "a/copies", "lies in 'a', whose photos are copied"),
        (["a"], "link/copies", "lies in 'a', whose photos are copied"),
        (["link"], "a/new/er", "lies in 'link', whose photos are copied"),
        (["a"], ".", "'a/1.jpg' lies in --out '.'"),
        (["a/1.jpg"], "a", "'a/1.jpg' lies in --out 'a'"),
        (["a/1.jpg"], "link", "'a/1.jpg' lies in --out 'link'"),
        (["**/*.jpg"], "b", "'b/1.jpg' lies in --out 'b'"),
        (["shortcut.jpg"], "a", "'shortcut.jpg' lies in --out 'a'"),
        (["a"], "4.jpg", "'4.jpg' is a file"),
    ],
)
def test_a_photo_is_never_written_to(here: Path, names, out: str, message: str) -> None:
    (here / "link").symlink_to("a")
    (here / "shortcut.jpg").symlink_to("a/1.jpg")
    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace("*", r"\*")):
        plan_copies(names, out)


def test_links_in_out_that_lead_elsewhere(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "a").symlink_to(here / "a")
    (here / "out" / "4.jpg").symlink_to(here / "4.jpg")
    assert leads_out(Path("out/a/1.jpg"), Path("out"))
    assert leads_out(Path("out/4.jpg"), Path("out"))
    assert not leads_out(Path("out/new/4.jpg"), Path("out"))
    (here / "other").symlink_to("out")
    assert not leads_out(Path("other/new/4.jpg"), Path("other"))
