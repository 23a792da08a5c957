"""Finds files by name in an archive, in the archives inside it, or in a folder, and reads them without unpacking the rest."""

import errno
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from re import Pattern
from typing import BinaryIO, NamedTuple

from common.parallel_text import InputError

# What Python's readers of archives raise at one that is cut short or damaged.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)

Wants = Callable[[str], bool]


class Found(NamedTuple):
    """A file's whole text and where it lies, for errors: `archive.tgz:texts/en/de/en-de.tgz:en-de/README`."""

    place: str
    data: bytes


def tar_members(file: BinaryIO, wants: Wants) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the wanted files of a tar archive, however compressed."""
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() and wants(member.name) else None
            if content:
                yield member.name, content.read()
        # The checksum of a compressed archive stands at its end, behind the last member.
        while archive.fileobj.read(1 << 20):
            pass


def zip_members(file: BinaryIO, wants: Wants) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the wanted files of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.is_dir() and wants(member.filename):
                yield member.filename, archive.read(member)


def archive_members(place: str, file: BinaryIO, wants: Wants) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the wanted files of an archive.

    Raises:
        InputError: it is no archive, or not a whole one.
    """
    beginning = file.read(16)
    file.seek(0)
    try:
        yield from (zip_members if beginning.startswith(b"PK") else tar_members)(file, wants)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk, not a place the archive names
            raise
        raise InputError(
            f"{place}: not a whole .tgz, .tar or .zip archive ({error or type(error).__name__}); it begins with {beginning!r}. "
            "A download that was cut short, or a web page saved in its place? Fetch it again"
        ) from None


def folder_members(folder: Path, wants: Wants) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the wanted files under a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and wants(path.name):
            yield str(path.relative_to(folder)), path.read_bytes()


def find_files(path: Path, wanted: Pattern[str], inner: Pattern[str]) -> dict[str, Found]:
    """Reads the files whose names, without folders, `wanted` matches whole; also from archives that `inner` matches.

    Raises:
        InputError: the archive can't be read, or has two different files of one wanted name.
    """
    found: dict[str, Found] = {}

    def wants(member: str) -> bool:
        name = base_name(member)
        return bool(wanted.fullmatch(name) or inner.fullmatch(name))

    def search(place: str, members: Iterator[tuple[str, bytes]]) -> None:
        for member, data in members:
            name, where = base_name(member), f"{place}:{member}"
            if inner.fullmatch(name):
                search(where, archive_members(where, io.BytesIO(data), wants))
            elif found.setdefault(name, Found(where, data)).data != data:
                raise InputError(f"{found[name].place} and {where} differ; name the folder or archive of one of them")

    if path.is_dir():
        search(str(path), folder_members(path, wants))
    elif path.is_file():
        with path.open("rb") as file:
            search(str(path), archive_members(str(path), file, wants))
    else:
        raise InputError(f"{path}: no such file or folder")
    return found


def base_name(member: str) -> str:
    """A member's name without folders, which archives separate by slashes whatever the system."""
    return member.rpartition("/")[2]
