"""Copies have the tags as keywords, beside those they had; photos stay as they are, byte for byte."""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest
from archive_files import kill_when
from photo_keywords import (
    iptc,
    iptc_keywords,
    jpeg_with,
    needs_exiftool,
    pixel_bytes,
    xmp_keywords,
)
from PIL import Image

from ovml_deploy import assets
from ovml_deploy.errors import MissingDependencyError, UsageError
from ovml_deploy.files import sha256_file
from ovml_deploy.pipelines import keywords
from ovml_deploy.pipelines.keywords import KeywordError, exiftool
from ovml_deploy.runtime.tagger import Tagger

pytestmark = [
    needs_exiftool,
    pytest.mark.skipif(
        not (assets.MINI / "bundle.json").exists(), reason="the embedded model is not built"
    ),
]

WORDS = ("cat", "dog", "red car", "tree", "person")
HOSTILE = [
    "a, b; c",
    "say \"hi\" and 'bye'",
    "<b>&amp;</b>",
    "<other.txt",
    "=1+1",
    "= 2",
    "-all=",
    "-execute",
    "# no comment",
    "#[CSTR]x\\n",
    "$HOME `ls` @x",
    "%d%f",
    "tail\\",
    "\\n no line break",
    "base64:AAAA",
    "2024",
    "007",
    "1e3",
    "True",
    "null",
    "{ready}",
    "猫 café \U0001f600",
    "a\u202eb",
    "x" * 200,
    "ü" * 40,
]


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger.load(assets.MINI, vocabulary=WORDS)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A photo of every usual format, below a folder."""
    folder = tmp_path / "photos" / "2024" / "May"
    folder.mkdir(parents=True)
    pixels = Image.linear_gradient("L").convert("RGB").resize((60, 40))
    pixels.save(folder.parent / "a.jpg", quality=90)
    pixels.save(folder / "b.png")
    pixels.save(folder / "c.tif", compression="tiff_lzw")
    pixels.save(folder / "d.webp")
    pixels.save(folder / "really a png.jpeg", "PNG")
    return tmp_path / "photos"


def write_keywords(tagger: Tagger, photos: list[str], out: Path, **options):
    """Write keywords; as these labels have no threshold, all of them unless another is given."""
    return keywords.write_keywords(tagger, photos, out, **{"threshold": 0.0, **options})


def copies(tagger: Tagger, out: Path, *names: object, **options) -> dict[str, Path]:
    """Copy photos, all of which must succeed; return the copy of each."""
    found = [*write_keywords(tagger, [str(name) for name in names], out, **options)]
    assert [copy.error for copy in found] == [None] * len(found)
    return {copy.source: copy.path for copy in found}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_behind(out: Path) -> list[str]:
    return [path.name for path in out.rglob(".*")]


def test_every_format_has_the_tags_and_its_pixels(tagger, photos, tmp_path) -> None:
    before = {path: sha256_file(path) for path in photos.rglob("*.*")}
    found = [*write_keywords(tagger, [str(photos)], tmp_path / "out", top_k=3)]
    assert len(found) == 5
    for copy, wanted in zip(found, tagger.tag_many([c.source for c in found], 3), strict=True):
        source = Path(copy.source)
        labels = [tag.label for tag in wanted]
        assert copy.error is None
        assert copy.path == tmp_path / "out" / source.relative_to(photos)
        assert [*copy.keywords] == xmp_keywords(copy.path) == labels
        assert iptc_keywords(copy.path) == (labels if source.suffix in (".jpg", ".tif") else [])
        assert pixel_bytes(copy.path) == pixel_bytes(source)
        assert copy.path.stat().st_mtime_ns == source.stat().st_mtime_ns
        with Image.open(copy.path) as one, Image.open(source) as other:
            assert (one.format, one.tobytes()) == (other.format, other.tobytes())
    assert {path: sha256_file(path) for path in photos.rglob("*.*")} == before
    assert left_behind(tmp_path / "out") == []


def test_a_photo_of_a_phone_keeps_the_pictures_within(tagger, tmp_path) -> None:
    """Phones append others, such as a depth map, to a JPEG; places in the file change before them."""
    pixels = Image.linear_gradient("L").convert("RGB")
    source = tmp_path / "phone.jpg"
    pixels.save(source, "MPO", save_all=True, append_images=[pixels.resize((99, 33))])
    (copy,) = copies(tagger, tmp_path / "out", source).values()
    assert len(iptc_keywords(copy)) == 5
    for frame, size in enumerate(((256, 256), (99, 33))):
        with Image.open(copy) as one, Image.open(source) as other:
            one.seek(frame)
            other.seek(frame)
            assert one.size == size
            assert one.tobytes() == other.tobytes()


def test_labels_are_data_whatever_they_hold(tagger, photos, tmp_path) -> None:
    words = tagger.make_vocabulary(HOSTILE)
    tagger_of_hostile = Tagger.of(tagger.engine, words)
    for source, copy in copies(tagger_of_hostile, tmp_path / "out", photos, top_k=None).items():
        assert {*xmp_keywords(copy)} == {*HOSTILE}
        assert len(xmp_keywords(copy)) == len(HOSTILE)
        if Path(source).suffix in (".jpg", ".tif"):
            short = {"x" * 64 if w[0] == "x" else "ü" * 32 if w[0] == "ü" else w for w in HOSTILE}
            assert {*iptc_keywords(copy)} == short
        assert pixel_bytes(copy) == pixel_bytes(Path(source))
    assert names_in(tmp_path) == ["out", "photos"]


def test_keywords_that_are_there_stay_and_none_comes_twice(tagger, tmp_path) -> None:
    photo = jpeg_with(tmp_path / "a.jpg", [b"Oma", b"dog"], b"a", ["Oma", "tree", "Cat"])
    first = copies(tagger, tmp_path / "1", photo, top_k=None)[str(photo)]
    assert xmp_keywords(first)[:3] == ["Oma", "tree", "Cat"]
    assert sorted(xmp_keywords(first)) == sorted(["Oma", "Cat", *WORDS])
    assert iptc_keywords(first)[:2] == ["Oma", "dog"]
    assert sorted(iptc_keywords(first)) == sorted(["Oma", *WORDS])
    again = copies(tagger, tmp_path / "2", first, top_k=None)[str(first)]
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("charset", ["latin-1", "utf-8"])
def test_old_texts_without_a_mark_still_say_the_same(tagger, tmp_path, charset) -> None:
    """Marked as UTF-8 as they are, they would be read as something else."""
    caption = "Grüße aus Zürich " * 100  # near the longest that IPTC allows, beyond it as UTF-8
    words = [word.encode(charset) for word in ("Müller", "tree")]
    photo = jpeg_with(tmp_path / "a.jpg", words, caption.encode(charset))
    copy = copies(tagger, tmp_path / "out", photo, top_k=None)[str(photo)]
    assert sorted(iptc_keywords(copy)) == sorted(["Müller", *WORDS])
    assert [text.decode() for text in iptc(copy, 2, 120)] == [caption]
    assert pixel_bytes(copy) == pixel_bytes(photo)


def test_file_names_are_data_too(tagger, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [
        "two words.jpg",
        "-delete_original.jpg",
        "line\nbreak.jpg",
        "\"quotes' `ls` $HOME.jpg",
        "%d%f%e.jpg",
        "@list.jpg",
        "猫 \U0001f600.jpg",
        os.fsdecode(b"latin1 \xe9.jpg"),
        "x" * 251 + ".jpg",
    ]
    original = jpeg_with(tmp_path / "one.jpg").read_bytes()
    Path("in").mkdir()
    for name in names:
        Path("in", name).write_bytes(original)
    found = copies(tagger, Path("out"), "in", top_k=1)
    assert {path.name for path in found.values()} == {*names}
    for path in found.values():
        assert len(xmp_keywords(path)) == 1
    monkeypatch.chdir("in")
    (place,) = copies(tagger, Path("../out2"), "-delete_original.jpg").values()
    assert place.is_file()
    assert names_in(tmp_path) == ["in", "one.jpg", "out", "out2"]
    assert all(Path(name).read_bytes() == original for name in names)


def test_a_bad_photo_is_one_bad_item(tagger, photos, tmp_path) -> None:
    page, bitmap, plain = photos / "page.jpg", photos / "x.bmp", photos / "x.ppm"
    page.write_text("<html>not found</html>")
    for path in (bitmap, plain):
        Image.new("RGB", (9, 9)).save(path)
    out, absent = tmp_path / "out", photos / "absent.jpg"
    found = {
        Path(copy.source).name: copy
        for copy in write_keywords(tagger, [str(photos), str(absent)], out, top_k=1)
    }
    errors = {name: copy.error for name, copy in found.items() if copy.error}
    assert {*errors} == {"page.jpg", "x.bmp", "x.ppm", "absent.jpg"}
    assert errors["page.jpg"].startswith(f"{page}: not an image that can be read")
    assert errors["x.bmp"].startswith(f"{bitmap}: ExifTool: ")
    assert "not supported. Convert it to JPEG" in errors["x.bmp"]
    assert errors["x.ppm"] == (  # it has no room for keywords, of which ExifTool says nothing
        f"{plain}: ExifTool did not write the keywords. Convert it to JPEG, PNG, TIFF or WebP."
    )
    assert len(found) == 9
    assert {p.name for p in out.rglob("*.*")} == {*found} - {*errors}


def test_a_photo_that_no_tag_fits_is_copied_as_it_is(tagger, photos, tmp_path) -> None:
    for source, copy in copies(tagger, tmp_path / "out", photos, threshold=1.0).items():
        assert copy.read_bytes() == Path(source).read_bytes()


def test_links_never_lead_to_a_photo(tagger, photos, tmp_path) -> None:
    out, photo = tmp_path / "out", photos / "2024" / "a.jpg"
    out.mkdir()
    before = {path: sha256_file(path) for path in photos.rglob("*.*")}
    (out / "2024").symlink_to(photos / "2024")
    found = [*write_keywords(tagger, [str(photos)], out, overwrite=True)]
    assert [("is a link, or lies behind one" in copy.error) for copy in found] == [True] * 5
    (out / "a.jpg").symlink_to(photo)
    (copy,) = write_keywords(tagger, [str(photo)], out, overwrite=True)
    assert "is a link" in copy.error
    (out / "a.jpg").unlink()
    os.link(photo, out / "a.jpg")
    (copy,) = write_keywords(tagger, [str(photo)], out, overwrite=True)
    assert len(xmp_keywords(copy.path)) == 5
    assert {path: sha256_file(path) for path in photos.rglob("*.*")} == before


def test_a_disk_without_links_will_do(tagger, photos, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as exFAT does

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for source, copy in copies(tagger, tmp_path / "out", photos).items():
        assert len(xmp_keywords(copy)) == 5
        assert copy.stat().st_mtime_ns == Path(source).stat().st_mtime_ns


def test_a_read_only_photo_behind_a_link_gives_a_file_of_ones_own(tagger, tmp_path) -> None:
    (tmp_path / "kept").mkdir()
    photo = jpeg_with(tmp_path / "kept" / "a.jpg")
    photo.chmod(0o444)
    (tmp_path / "kept").chmod(0o555)
    (tmp_path / "link.jpg").symlink_to("kept/a.jpg")
    (copy,) = copies(tagger, tmp_path / "out", tmp_path / "link.jpg").values()
    (tmp_path / "kept").chmod(0o755)
    assert not copy.is_symlink()
    assert copy.stat().st_mode & stat.S_IWUSR
    assert len(xmp_keywords(copy)) == 5


def test_copies_that_are_there_stay_unless_one_says_so(tagger, photos, tmp_path) -> None:
    out = tmp_path / "out"
    (out / "2024").mkdir(parents=True)
    (out / "2024" / "a.jpg").write_bytes(b"mine")
    found = [*write_keywords(tagger, [str(photos)], out)]
    assert [Path(copy.source).name for copy in found if copy.there] == ["a.jpg"]
    assert (out / "2024" / "a.jpg").read_bytes() == b"mine"
    assert [copy.there for copy in write_keywords(tagger, [str(photos)], out)] == [True] * 5
    again = [*write_keywords(tagger, [str(photos)], out, prefix="auto: ", overwrite=True)]
    assert {copy.there for copy in again} == {False}
    assert {*iptc_keywords(out / "2024" / "a.jpg")} == {f"auto: {word}" for word in WORDS}


def test_labels_without_a_threshold_are_refused(tagger, photos, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"(have|has) no threshold.*--threshold 0\.5"):
        keywords.write_keywords(tagger, [str(photos)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    calibrated = Tagger.of(tagger.engine)
    found = [*keywords.write_keywords(calibrated, [str(photos)], tmp_path / "out")]
    assert [copy.error for copy in found] == [None] * 5


def test_a_prefix_must_fit_before_a_label(tagger, photos, tmp_path) -> None:
    with pytest.raises(UsageError, match="cannot stand before a label"):
        write_keywords(tagger, [str(photos)], tmp_path / "out", prefix="a\nb")
    assert not (tmp_path / "out").exists()


def test_without_exiftool_the_remedy_is_named(tagger, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="apt install libimage-exiftool-perl"):
        write_keywords(tagger, [str(photos)], tmp_path / "out")


def test_a_photo_that_exiftool_dies_of_is_one_bad_item(
    tagger, photos, tmp_path, monkeypatch
) -> None:
    """The real one behind a script that ends it where the third photo is written."""
    real = shutil.which("exiftool")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "exiftool"
    script.write_text(
        f"#!/bin/sh\nif grep -q '^p2.out$' arguments; then kill -9 $$; fi\nexec {real} \"$@\"\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    found = [*write_keywords(tagger, [str(photos)], tmp_path / "out")]
    assert [copy.error is None for copy in found] == [True, True, False, True, True]
    assert found[2].error.startswith(f"{found[2].source}: ExifTool")
    assert [len(xmp_keywords(copy.path)) for copy in found if not copy.error] == [5] * 4


def test_exiftool_has_a_limited_time(tmp_path, monkeypatch) -> None:
    script = tmp_path / "exiftool"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr(exiftool, "_PATIENCE", 0.05)
    with pytest.raises(KeywordError, match="did not end in time"):
        exiftool.ExifTool(str(script), tmp_path).run(["-ver"])


def test_the_user_s_exiftool_settings_do_not_matter(tagger, photos, tmp_path, monkeypatch) -> None:
    config = tmp_path / "home" / ".ExifTool_config"
    config.parent.mkdir()
    config.write_text("die 'read';\n")
    monkeypatch.setenv("HOME", str(config.parent))
    monkeypatch.setenv("EXIFTOOL_HOME", str(config.parent))
    said = subprocess.run(["exiftool", "-ver"], capture_output=True, text=True).stderr
    assert "read" in said  # so it would be
    assert len(copies(tagger, tmp_path / "out", photos)) == 5


def test_killed_it_leaves_whole_copies_and_goes_on(tagger, tmp_path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    original = jpeg_with(photos / "00.jpg")
    for number in range(1, 80):
        shutil.copy(original, photos / f"{number:02d}.jpg")
    pixels, words = pixel_bytes(original), tagger.tag(original, 2)
    labels = [tag.label for tag in words]

    def whole(path: Path) -> bool:
        return pixel_bytes(path) == pixels and xmp_keywords(path) == labels == iptc_keywords(path)

    kill_when(
        lambda: any(out.glob("[0-9]*.jpg")),
        out,
        *("keywords", photos, "--out", out, "--labels", ",".join(WORDS)),
        *("--top-k", 2, "--threshold", 0),
    )
    made = [path for path in out.iterdir() if path.name[0] != "."]
    assert 0 < len(made) < 80
    assert all(whole(path) for path in made)
    (out / ".ovml-keywords-left").mkdir(exist_ok=True)  # it may have left none
    found = [*write_keywords(tagger, [str(photos)], out, top_k=2)]
    assert sum(copy.there for copy in found) == len(made)
    assert all(whole(out / f"{number:02d}.jpg") for number in range(80))
    for _ in range(600):  # the killed run's ExifTool ends by itself, but on a slow machine when?
        if not left_behind(out):
            return
        time.sleep(0.1)
        assert all(copy.there for copy in write_keywords(tagger, [str(photos)], out))
    raise AssertionError(left_behind(out))


def test_what_others_are_making_there_is_not_swept_away(tagger, photos, tmp_path) -> None:
    """Two at once, in different parts of one folder: the first has begun, the second runs through."""
    out, others = tmp_path / "out", tmp_path / "others"
    others.mkdir()
    for number in range(40):
        jpeg_with(others / f"{number}.jpg")
    first = write_keywords(tagger, [str(others)], out)
    begun = [next(first)]
    kept = out / ".ovml-keywords-kept"
    kept.mkdir()
    assert len(copies(tagger, out, photos)) == 5
    assert kept.exists()
    begun += first
    assert [copy.error for copy in begun] == [None] * 40
