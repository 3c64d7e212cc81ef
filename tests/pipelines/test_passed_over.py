"""Files and folders that a search for images skips, counts, follows or cannot read."""

import inspect
import os
import sys
from pathlib import Path

import pytest
from unprivileged import unprivileged

from ovml_deploy.errors import ImageError, UsageError
from ovml_deploy.pipelines.folders import find_files, find_images, find_inside
from ovml_deploy.pipelines.labelled_images import has_subfolders, read_labelled_folder
from ovml_deploy.runtime.images import open_image


@pytest.fixture
def make(tmp_path: Path, monkeypatch):
    """A function that makes files below the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(b"x")

    return make


TOOLS = (
    "._a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "b/@eaDir/x.jpg", ".thumbnails/1.png",
    "#recycle/2.jpg", "Thumbs.db", ".DS_Store", ".@__thumb/3.jpg", "$RECYCLE.BIN/4.jpg",
    ".Trash-1000/files/5.jpg", ".trashed-1700000000-6.jpg", "__MACOSX/._7.jpg", ".dtrash/8.jpg",
    "Catalog Previews.lrdata/9.jpg", ".picasaoriginals/10.jpg",
)  # fmt: skip


@pytest.mark.parametrize("name", ["in", "in/**/*", "in/**"])
def test_what_photo_tools_leave_is_passed_over_and_counted(make, name: str) -> None:
    make("in/a.jpg", "in/b/c.JPG", *(f"in/{tool}" for tool in TOOLS))
    found = find_images([name])
    assert found.images == ["in/a.jpg", "in/b/c.JPG"]
    (line,) = found.passed_over.lines()
    assert line.startswith("15 left by photo tools or the system (")
    for part in ("2 @eaDir", "1 ._*", "2 .Trash*", "1 #recycle", "..."):
        assert part in line


def test_what_is_named_is_always_tried(make) -> None:
    make("in/._a.jpg", "in/@eaDir/b.jpg", "in/.c/d.jpg", "in/@eaDir/._e.jpg")
    names = ["in/._a.jpg", "in/@eaDir", "in/.c/*.jpg", "in/@eaDir/._*"]
    found = find_images(names, exclude=["_a.jpg"])
    assert found.images == [
        *("in/._a.jpg", "in/@eaDir/b.jpg", "in/.c/d.jpg", "in/@eaDir/._e.jpg"),
    ]


def test_other_files_are_counted_by_suffix(make) -> None:
    make(*(f"in/{n}.TXT" for n in range(3)), "in/a.mov", "in/IMG_1", "in/b.xmp", "in/c.jpg")
    make("in/d.psd", "in/e.jxl", "in/f.\x1b[31mred", "in/g.heic", "in/h.CR3")
    os.mkfifo("in/pipe.jpg")
    found = find_images(["in"])
    assert found.images == ["in/c.jpg", "in/g.heic", "in/h.CR3"]
    not_images, unread = found.passed_over.lines()
    counts, _, details = not_images.removesuffix(")").partition(" (")
    assert counts == "8 not named like an image"
    assert {*details.split(", ")[1:]} == {
        *("1 .mov", "1 without a suffix", "1 .xmp", "1 others"),
        *("1 devices", "pipes or sockets"),
    }
    assert details.startswith("3 .txt, ")
    assert unread.startswith("2 in a format that is not read; convert it to JPEG, PNG or TIFF (")


def test_hidden_files_are_passed_over_and_counted(make) -> None:
    make("in/.a.jpg", "in/.git/b.jpg", "in/c.jpg", ".top/d.jpg")
    for name in ("in", "in/**/*.jpg"):
        found = find_images([name])
        assert found.images == ["in/c.jpg"]
        assert found.passed_over.lines() == ["2 hidden (names that start with a dot)"]
    assert find_images([".top"]).images == [".top/d.jpg"]


@pytest.mark.parametrize(
    ("exclude", "images"),
    [
        (["*.cr3"], ["a/1.jpg", "a/raw/2.jpg", "b/raw/3.jpg"]),
        (["RAW"], ["a/1.CR3", "a/1.jpg"]),
        (["a/raw"], ["a/1.CR3", "a/1.jpg", "b/raw/3.jpg"]),
        (["a/raw/", "*.jp[g]"], ["a/1.CR3"]),
        (["1.*", "b"], ["a/raw/2.jpg"]),
    ],
)
@pytest.mark.parametrize("name", ["in", "in/**/*.*"])
def test_exclude(make, exclude, images, name) -> None:
    make(*(f"in/{file}" for file in ("a/1.jpg", "a/1.CR3", "a/raw/2.jpg", "b/raw/3.jpg")))
    found = find_images([name], exclude)
    assert found.images == [f"in/{image}" for image in images]
    assert found.passed_over.lines()[0].endswith(" by --exclude")


@pytest.mark.parametrize("name", ["in", "in/**/*.jpg"])
def test_linked_folders_are_followed_once(make, name: str) -> None:
    make("in/2024/a.jpg", "in/b.jpg", "other/c.jpg", "other/deep/d.jpg")
    for link, target in (
        ("in/a first", "2024"),  # found by its own name
        ("in/elsewhere", "../other"),
        ("in/twice", "../other"),
        ("other/deep/loop", "../../in"),  # of the folder searched
        ("other/up", "../.."),  # above it
        ("in/e.jpg", "../other/c.jpg"),  # a link to a file is a file
    ):
        Path(link).symlink_to(target)
    found = find_images([name])
    assert found.images == [
        *("in/2024/a.jpg", "in/b.jpg", "in/e.jpg"),
        *("in/elsewhere/c.jpg", "in/elsewhere/deep/d.jpg"),
    ]
    assert not found.unreadable
    assert found.passed_over.lines() == [
        "3 linked, to a folder that is searched under another name",
        "1 linked, to a folder above the one searched",
    ]


def test_a_link_to_a_folder_that_is_otherwise_passed_over_is_followed(make) -> None:
    make("in/.store/a.jpg")
    Path("in/photos").symlink_to(".store")
    assert find_images(["in"]).images == ["in/photos/a.jpg"]


@pytest.mark.parametrize("name", ["in", "in/**/*.jpg", "in/*/*.jpg"])
def test_a_folder_that_cannot_be_read_is_a_failure(make, tmp_path, name) -> None:
    make("in/a/1.jpg", "in/private/2.jpg")
    private = tmp_path / "in/private"
    private.chmod(0)
    try:
        with unprivileged(tmp_path):
            found = find_images([name])
            alone = find_images(["in/private"])
            inside = find_images(["in/private/2.jpg"])
            with pytest.raises(ImageError, match=r"2\.jpg: permission denied"):
                open_image("in/private/2.jpg")
    finally:
        private.chmod(0o755)
    assert found.images == ["in/a/1.jpg"]
    assert found.reasons == ["in/private: the folder cannot be read (Permission denied)."]
    assert alone.reasons == found.reasons
    assert inside.images == ["in/private/2.jpg"]


@pytest.mark.parametrize("name", ["in", "in/*", "in/**/*"])
def test_broken_links_are_failures(make, name: str) -> None:
    make("in/a.jpg")
    for link, target in (
        *(("in/b.jpg", "gone.jpg"), ("in/c.jpg", "c.jpg"), ("in/notes.txt", "gone.txt")),
        ("in/2023", "/mnt/not-mounted/2023"),
    ):
        Path(link).symlink_to(target)
    found = find_images([name])
    assert {"in/a.jpg", "in/b.jpg", "in/c.jpg"} <= {*found.images}  # tried, and then they fail
    if name == "in":
        assert found.passed_over.lines() == ["1 not named like an image (1 .txt)"]
        assert found.reasons == [
            "in/2023: a broken link to '/mnt/not-mounted/2023'; restore its target, or remove the "
            "link."
        ]
    else:
        assert {"in/2023", "in/notes.txt"} <= {*found.images}


def test_patterns_say_what_they_do_not_take(make) -> None:
    make("in/a.jpg", "in/B.JPG", "in/sub.jpg/c.jpg", "in/d.txt", "in/.e.jpg")
    found = find_images(["in/*.jpg"])
    assert found.images == ["in/a.jpg"]
    assert found.passed_over.lines() == [
        "1 hidden (names that start with a dot)",
        "1 matched by a pattern but a folder; name it, or use **, to search it",
        "1 matched by a pattern only in another case",
    ]
    with pytest.raises(UsageError, match=r"No file matches.*passed over: 1 matched by"):
        find_images(["in/*.TXT"])


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("in/*", ["in/1.jpg"]),
        ("in/**/2.jpg", ["in/a/2.jpg", "in/a/b/2.jpg"]),
        ("in/**/b/*.jpg", ["in/a/b/2.jpg", "in/a/b/3.jpg"]),
        ("in/*/?.jpg", ["in/a/2.jpg"]),
        ("i?/a/[!b]*", ["in/a/2.jpg"]),
        ("**/3.jpg", ["in/a/b/3.jpg"]),
        ("in/**", ["in/1.jpg", "in/a/2.jpg", "in/a/b/2.jpg", "in/a/b/3.jpg"]),
        ("./in/**/**/3.jpg", ["in/a/b/3.jpg"]),
        ("nowhere/*.jpg", []),
        ("in/1.jpg/*", []),
    ],
)
def test_patterns_match_as_glob_does(make, pattern: str, matches: list[str]) -> None:
    make("in/1.jpg", "in/a/2.jpg", "in/a/b/2.jpg", "in/a/b/3.jpg")
    assert find_files(pattern).images == matches


def test_names_that_are_no_utf8_and_folders_nested_deeper_than_the_stack(make) -> None:
    make("in/caf\udce9.jpg", "in/" + "d/" * 200 + "x.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 50)
    try:
        found = find_images(["in"])
    finally:
        sys.setrecursionlimit(limit)
    assert found.images == ["in/caf\udce9.jpg", "in/" + "d/" * 200 + "x.png"]


def test_an_empty_folder_says_what_is_in_it(make) -> None:
    make("in/a.txt", "in/@eaDir/b.jpg")
    with pytest.raises(
        UsageError, match=r"holds no images \(.*camera RAW\); passed over: 1 left by"
    ):
        find_images(["in"])
    assert find_inside("in").images == []


def test_labelled_folders_leave_out_the_same(make, tmp_path) -> None:
    make("in/cat/1.jpg", "in/cat/notes.txt", "in/@eaDir/2.jpg", "in/.x/3.jpg", "in/beside.jpg")
    make("in/dog/4.jpg", "in/dog/skip/5.jpg", "plain/6.jpg", "plain/@eaDir/7.jpg")
    found = read_labelled_folder("in", exclude=["skip"])
    assert (found.labels, found.paths) == (("cat", "dog"), ("in/cat/1.jpg", "in/dog/4.jpg"))
    assert found.search.passed_over.lines() == [
        "1 left by photo tools or the system (1 @eaDir)",
        "1 hidden (names that start with a dot)",
        "1 by --exclude",
        "1 not named like an image (1 .txt)",
        "1 beside the label subfolders, so without a label",
    ]
    assert has_subfolders(Path("in"))
    assert not has_subfolders(Path("plain"))
    private = tmp_path / "in/dog/private"
    private.mkdir(mode=0)
    try:
        with unprivileged(tmp_path):
            assert "in/dog/private: the folder" in read_labelled_folder("in").search.reasons[0]
    finally:
        private.chmod(0o755)
