"""Copies of photos with their tags as keywords."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from ovml_deploy.errors import LabelError, UsageError
from ovml_deploy.files import fsync_folder
from ovml_deploy.pipelines.folders import SUFFIXES
from ovml_deploy.pipelines.keywords.exiftool import CONVERT, ExifTool, KeywordError, find_exiftool
from ovml_deploy.pipelines.keywords.metadata import adding, read, recoding
from ovml_deploy.pipelines.keywords.places import Place, leads_out, plan_copies
from ovml_deploy.runtime.image_formats import RAW_SUFFIXES
from ovml_deploy.runtime.iteration import batches, called_ahead
from ovml_deploy.runtime.labels import check_labels
from ovml_deploy.runtime.results import TagResult
from ovml_deploy.runtime.tagger import Tagger
from ovml_deploy.runtime.threads import available_cpus
from ovml_deploy.runtime.vocabulary import Vocabulary

#: Photos whose copies one process of ExifTool makes, while the next are tagged.
_AT_ONCE = 32
_STAGING = ".ovml-keywords-"
_RECODED, _MADE = ".utf8", ".out"


@dataclass(frozen=True)
class Copied:
    """What became of a photo. ``keywords``: those of its tags, which its copy at ``path`` has.

    ``error``: why there is no copy. ``there``: the copy was there before and was left as it was.
    """

    source: str
    path: Path
    keywords: tuple[str, ...] = ()
    error: str | None = None
    there: bool = False


def check_threshold(vocabulary: Vocabulary | None, threshold: float | None) -> None:
    """Raise UsageError without a threshold for labels (None) or a vocabulary that has none.

    Uncalibrated scores do not say whether a tag is right, so each photo would get ``top_k`` keywords.
    """
    if threshold is None and (vocabulary is None or vocabulary.calibration is None):
        which = (
            "These labels have" if vocabulary is None else f"The vocabulary {vocabulary.name!r} has"
        )
        raise UsageError(
            f"{which} no threshold, so each photo would get the best labels as keywords, right or "
            "wrong. Give a threshold (--threshold 0.5; 0 keeps them all), or calibrate the vocabulary: "
            "ovml-deploy vocab calibrate"
        )


def write_keywords(
    tagger: Tagger,
    photos: Iterable[str],
    out: str | Path,
    top_k: int | None = 5,
    threshold: float | None = None,
    prefix: str = "",
    overwrite: bool = False,
    batch_size: int = 8,
    exclude: Sequence[str] = (),
) -> Iterator[Copied]:
    """Tag photos and write copies of them below ``out`` with the tags as keywords; yield each.

    ``photos``: files, folders and patterns; for them, ``exclude`` and the places of copies see
    :func:`plan_copies`. A folder that cannot be read is an item with an ``error``, too. Keywords
    go to XMP (dc:subject) and, in JPEG and TIFF, to IPTC (2:25, at most 64 bytes each); those that a
    photo has stay, and none is there twice. A copy that is there is left alone, and its photo is not
    tagged, unless ``overwrite``. The rest as for ``Tagger.tag_many``, ``prefix`` before each label.
    Memory: as for tagging. Disk: the copies, and meanwhile 32 photos for each
    CPU and one more such batch.

    Raises UsageError, MissingDependencyError for a missing ExifTool, OSError where ``out`` cannot be
    written; a photo that cannot be read or written is an item with an ``error``. An uncalibrated
    vocabulary without a ``threshold`` is a UsageError, see :func:`check_threshold`.
    """
    check_threshold(tagger.vocabulary, threshold)
    try:
        check_labels([f"{prefix}label"])
    except LabelError as error:
        raise UsageError(f"The prefix {prefix!r} cannot stand before a label: {error}") from error
    program = find_exiftool()
    plan = plan_copies(photos, out, exclude)
    there = [p for p in plan.places if not overwrite and os.path.lexists(p.target)]
    waiting = [p for p in plan.places if overwrite or not os.path.lexists(p.target)]
    results = tagger.tag_many((p.source for p in waiting), top_k, threshold, batch_size=batch_size)
    lost = (Copied(each.path, Path(out), error=each.reason) for each in plan.unreadable)
    tagged = zip(waiting, results, strict=True)
    return chain(_write(there, tagged, Path(out), _Copier(program, prefix)), lost)


def _write(
    there: Sequence[Place],
    tagged: Iterable[tuple[Place, TagResult]],
    out: Path,
    copier: "_Copier",
) -> Iterator[Copied]:
    yield from (Copied(place.source, place.target, there=True) for place in there)
    copy, workers = partial(copier.copies, out=out), available_cpus()
    some = batches(tagged, _AT_ONCE)
    with _at_work(out), called_ahead(copy, some, workers + 1, workers, "ovml-keywords") as calls:
        for call in calls:
            yield from call.result()


class _Copier:
    def __init__(self, program: str, prefix: str) -> None:
        self._program, self._prefix = program, prefix

    def copies(self, batch: Sequence[tuple[Place, TagResult]], out: Path) -> list[Copied]:
        """Write the copies of some photos: beside their places, then into them."""
        with tempfile.TemporaryDirectory(dir=out, prefix=_STAGING) as staging:
            folder = Path(staging)
            names = {
                _name(number, place.source): (place, self._keywords(result))
                for number, (place, result) in enumerate(batch)
                if result.error is None
            }
            failed = {}
            for name, (place, _) in names.items():
                if error := _lay(folder / name, place):
                    failed[name] = error
            wanted = {n: words for n, (_, words) in names.items() if words and n not in failed}
            failed |= _make(ExifTool(self._program, folder), wanted)
            done = iter(names.items())
            copied = []
            for place, result in batch:
                if result.error is not None:
                    copied.append(Copied(place.source, place.target, error=result.error))
                    continue
                name, (_, words) = next(done)
                if error := failed.get(name) or _put(folder / name, place, out):
                    error = f"{place.source}: {error}"
                    copied.append(Copied(place.source, place.target, error=error))
                else:
                    copied.append(Copied(place.source, place.target, words))
            return copied

    def _keywords(self, result: TagResult) -> tuple[str, ...]:
        return tuple(self._prefix + tag.label for tag in result)


def _make(tool: ExifTool, wanted: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Write what gets new keywords, as name.out; return why those failed that did."""
    found = read(tool, [*wanted])
    failed = {name: str(what) for name, what in found.items() if isinstance(what, KeywordError)}
    commands, recoded = {}, {}
    for name, what in found.items():
        if isinstance(what, KeywordError):
            continue
        tags = adding(what, wanted[name])
        before = recoding(what, tags, name)
        if before:
            recoded[name + _RECODED] = [*before, "-o", name + _RECODED, name]
        if tags:
            source = name + _RECODED if before else name
            commands[name + _MADE] = [*tags, "-o", name + _MADE, source]
    for name, reason in tool.write(recoded).items():
        failed[name.removesuffix(_RECODED)] = reason
        del commands[name.removesuffix(_RECODED) + _MADE]
    for name, reason in tool.write(commands).items():
        failed[name.removesuffix(_MADE)] = reason
    made = [name for name in commands if name.removesuffix(_MADE) not in failed]
    for name, what in read(tool, made).items():  # it may say nothing where a format has no room
        words = wanted[name.removesuffix(_MADE)]
        if isinstance(what, KeywordError) or adding(what, words):
            failed[name.removesuffix(_MADE)] = f"ExifTool did not write the keywords. {CONVERT}"
    return failed


def _lay(photo: Path, place: Place) -> str | None:
    """Give a photo a name of ours; return why that failed, or None."""
    try:
        source = Path(place.source).absolute()
        try:
            photo.symlink_to(source)
        except OSError:  # memory cards and other foreign disks know no links
            shutil.copyfile(source, photo)
            shutil.copystat(source, photo)
    except OSError as error:
        return f"cannot be copied to {str(place.target)!r} ({error.strerror})"
    return None


def _put(photo: Path, place: Place, out: Path) -> str | None:
    """Move what was made of a photo into its place, whole; return why that failed, or None."""
    made = photo.with_name(photo.name + _MADE)
    try:
        if leads_out(place.target, out):
            return f"{str(place.target)!r} is a link, or lies behind one. Remove it."
        if not made.exists():  # no keyword is new
            shutil.copyfile(photo, made)
        times = photo.stat()
        os.utime(made, ns=(times.st_atime_ns, times.st_mtime_ns))
        with open(made, "rb+") as file:
            os.fsync(file.fileno())
        place.target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, place.target)
        fsync_folder(place.target.parent)
    except OSError as error:
        return f"cannot be copied to {str(place.target)!r} ({error.strerror})"
    return None


def _name(number: int, source: str) -> str:
    """A name of ours. ExifTool looks at what is inside, and raw photos it knows by their endings."""
    suffix = Path(source).suffix.lower()
    other = suffix not in SUFFIXES and suffix[1:].isascii() and suffix[1:].isalnum()
    return f"p{number}{suffix if other or suffix in RAW_SUFFIXES else ''}"


@contextmanager
def _at_work(out: Path) -> Iterator[None]:
    """Hold a shared lock on the folder, and remove what a kill left behind there."""
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        _sweep(out, handle)
        yield
        _sweep(out, handle)  # an ExifTool of a run that was killed may have gone on for a while
    finally:
        os.close(handle)


def _sweep(out: Path, handle: int) -> None:
    with suppress(ImportError, OSError):  # others are at work, or there are no locks here
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in out.glob(f"{_STAGING}*"):
                shutil.rmtree(left, ignore_errors=True)
        finally:
            fcntl.flock(handle, fcntl.LOCK_SH)
