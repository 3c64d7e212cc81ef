"""Where an archive's images come from: files, WebDataset's tar shards, Parquet files."""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from io import BufferedReader
from pathlib import Path

from ovml_deploy.errors import ImageError, UsageError
from ovml_deploy.pipelines.archives.arrow import DAMAGED
from ovml_deploy.pipelines.archives.parquet_images import check_column, images_in
from ovml_deploy.pipelines.folders import SUFFIXES, Found, find_files, find_images
from ovml_deploy.pipelines.passed_over import Kind, PassedOver, Rules, suffix_of
from ovml_deploy.runtime.images import MAX_BYTES, open_image

_TARS = (".tar", ".tar.gz", ".tgz")
_PARQUET = ".parquet"

#: Whether an image of this name is still to be read.
Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Stretch:
    """Some bytes of a file."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True)
class Item:
    """An image to come: its name, and its content, where that is, or why there is none."""

    name: str
    content: bytes | Path | Stretch | ImageError


@dataclass(frozen=True)
class Content:
    """An image's bytes and their SHA-256."""

    data: bytes
    digest: bytes


def check_sources(names: Iterable[str], image_column: str) -> None:
    """Raise UsageError for sources that cannot be meant, before any work."""
    names = list(names)
    if not names:
        raise UsageError("No images are named. Give files, folders, patterns, .tar or .parquet.")
    archives = (name for name in names if name.endswith((*_TARS, _PARQUET)))
    for source in _expanded(archives, ()):
        for name in source.images:
            if name.endswith(_PARQUET) and Path(name).is_file():
                check_column(name, image_column)


def find_items(
    names: Iterable[str],
    wanted: Wanted,
    image_column: str,
    in_place: bool = False,
    exclude: Sequence[str] = (),
    passed_over: PassedOver | None = None,
) -> Iterator[Item]:
    """Yield the images of all sources, in order, that are ``wanted``.

    ``in_place``: of a tar that is not compressed, say where an image is instead of reading it.

    An image in a tar is named ``shard.tar::member.jpg``, one in a Parquet ``file.parquet::row``
    (``::row.0`` where rows hold lists). A
    tar or Parquet that is damaged gives one item that says so, after the images before the damage; a
    folder that cannot be read gives one, too. ``exclude``: patterns as for :class:`Rules`, also for
    members of tars. ``passed_over``: gets the counts of what is passed over.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    sources = _Sources(wanted, in_place, Rules(exclude), passed_over)
    for found in _expanded(names, exclude):
        passed_over.update(found.passed_over)
        yield from sources.unreadable(found)
        for name in found.images:
            if name.endswith((*_TARS, _PARQUET)):
                # itself no image, but read: its failure of an earlier run is settled
                wanted(stored_name(name))
            if name.endswith(_TARS):
                yield from _guarded(name, sources.tar(name))
            elif name.endswith(_PARQUET):
                yield from _guarded(name, _parquet_items(name, wanted, image_column))
            elif wanted(stored_name(name)):
                yield Item(stored_name(name), Path(name))


def read(item: Item) -> Content:
    """Return an image's bytes. Raises ImageError."""
    if isinstance(item.content, ImageError):
        raise item.content
    data = item.content
    if isinstance(data, Stretch):
        data = _read_stretch(data, item.name)
    elif isinstance(data, Path):
        data = _read_file(data)
    return Content(data, hashlib.sha256(data).digest())


def stored_name(name: str) -> str:
    """Return a name as UTF-8 can hold it: what is no UTF-8 in a file's name is escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _read_file(path: Path) -> bytes:
    try:
        if 0 < path.stat().st_size <= MAX_BYTES and path.is_file():
            return path.read_bytes()
    except OSError:
        pass
    open_image(path)  # says what is wrong with it
    raise ImageError(f"{path}: cannot be read.")


def _read_stretch(where: Stretch, name: str) -> bytes:
    try:
        with open(where.path, "rb") as file:
            file.seek(where.start)
            data = file.read(where.size)
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error}).") from error
    if len(data) != where.size:
        raise ImageError(f"{name}: has {len(data):,} of {where.size:,} bytes.")
    return data


def _expanded(names: Iterable[str], exclude: Sequence[str]) -> Iterator[Found]:
    """The files of each source: a tar or Parquet, those a pattern matches, or images."""
    for name in names:
        if not name.endswith((*_TARS, _PARQUET)):
            yield find_images([name], exclude)
        elif Path(name).exists() or not has_magic(name):
            yield Found([name])
        else:
            found = find_files(name, exclude)
            if not found.images and not found.unreadable:
                raise UsageError(f"No file matches the pattern {name!r}.")
            yield found


def _guarded(name: str, items: Iterator[Item]) -> Iterator[Item]:
    last = "its start"
    try:
        for item in items:
            yield item
            last = item.name.removeprefix(f"{name}::")
    except FileNotFoundError:
        yield Item(stored_name(name), ImageError(f"{name}: there is no such file."))
    except (tarfile.TarError, EOFError, zlib.error, *DAMAGED) as error:
        why = f"{name}: cannot be read behind {last} ({error}). Fetch it again, and run this again."
        yield Item(stored_name(name), ImageError(why))


class _Sources:
    """Reads folders and tars by one set of rules."""

    def __init__(
        self, wanted: Wanted, in_place: bool, rules: Rules, passed_over: PassedOver
    ) -> None:
        self._wanted, self._in_place = wanted, in_place
        self._rules, self._passed_over = rules, passed_over
        self._folders: set[str] = set()

    def unreadable(self, found: Found) -> Iterator[Item]:
        """Yield a failure for each folder that cannot be read; settle those that now can be."""
        for folder in [*found.folders, *(each.path for each in found.unreadable)]:
            if folder not in self._folders:
                self._folders.add(folder)
                self._wanted(stored_name(folder))
        for each in found.unreadable:
            yield Item(stored_name(each.path), ImageError(stored_name(each.reason)))

    def tar(self, path: str) -> Iterator[Item]:
        """Yield the images of a tar."""
        seen: dict[str, int] = {}
        with tarfile.open(path) as tar:
            plain = self._in_place and isinstance(tar.fileobj, BufferedReader)
            whole = Path(path).stat().st_size if plain else 0
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                if not self._is_image(member):
                    continue
                name = stored_name(f"{path}::{member.name}")
                seen[name] = seen.get(name, 0) + 1
                if seen[name] > 1:  # a tar may hold a name twice
                    name = f"{name}#{seen[name]}"
                if self._wanted(name):
                    yield Item(name, _member(tar, member, name, Path(path), whole))

    def _is_image(self, member: tarfile.TarInfo) -> bool:
        """Whether a member is an image by its name; count it if it is passed over."""
        if member.isdir():
            return False
        if (reason := self._rules.reason_in_path(member.name)) is not None:
            self._passed_over.add(*reason)
        elif suffix_of(member.name) not in SUFFIXES:
            self._passed_over.add_file(member.name)
        elif not member.isfile():
            self._passed_over.add(Kind.ARCHIVE_LINKS)
        else:
            return True
        return False


def _member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, path: Path, whole: int
) -> bytes | Stretch | ImageError:
    """A member's bytes, or where they are in a tar that is ``whole`` bytes long (0: unknown)."""
    if member.size > MAX_BYTES:
        return ImageError(f"{name}: {member.size:,} bytes; at most {MAX_BYTES:,} are read.")
    if member.size == 0:
        return ImageError(f"{name}: is empty (0 bytes).")
    if whole and not member.issparse():
        if member.offset_data + member.size > whole:
            raise tarfile.ReadError("unexpected end of data")  # as reading it would
        return Stretch(path, member.offset_data, member.size)
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} has {len(data):,} of {member.size:,} bytes")
    return data


def _parquet_items(path: str, wanted: Wanted, column: str) -> Iterator[Item]:
    def name(place: str) -> str:
        return stored_name(f"{path}::{place}")

    for place, content in images_in(path, column, lambda place: wanted(name(place))):
        yield Item(name(place), content)
