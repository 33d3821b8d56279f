"""Unpacks zip and tar archives; a member that would leave the folder, or is a link, refuses the whole archive."""

import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from utils.errors import UserError, printable

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
LARGEST_GROWTH = 200  # unpacked over packed size; photos hardly grow, a bomb grows by thousands
ALWAYS_ALLOWED = 2**28
MOST_MEMBERS = 5_000_000
# What zipfile, tarfile and zlib raise for a damaged archive, or for one that they cannot read.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def is_archive(name: str) -> bool:
    """Tell whether a file of this name is one that `unpack` reads."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, target: Path) -> int:
    """Unpack into `target`, all members or none, and return their number; UserError for a hostile or damaged one."""
    shown = printable(archive.name)
    target.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target) as temporary:
            draft = Path(temporary)
            unpacker = _unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar
            names = list(unpacker(archive, draft))
            for name in names:
                place = target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.parent.resolve().is_relative_to(target.resolve()):
                    raise UserError(f"{shown}: {printable(name)!r} would leave {printable(target)} by a link there")
                (draft / name).replace(place)
    except DAMAGED as error:
        raise UserError(f"{shown}: the archive is damaged: {printable(error)}") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be unpacked to {printable(target)}: {printable(error)}") from None
    return len(names)


def safe_name(name: str, archive: Path) -> PurePosixPath:
    """Return the member's place below the target; UserError if it is none. Old Windows programs write `\\` for `/`."""
    path = PurePosixPath(name.replace("\\", "/"))
    unsafe = path.is_absolute() or ".." in path.parts or "\0" in name or any(":" in part for part in path.parts[:1])
    if unsafe or not path.parts:
        raise UserError(
            f"{printable(archive.name)}: refused, its member {printable(name, 80)!r} leaves the target folder"
        )
    return path


def _check_growth(archive: Path, sizes: list[int]) -> None:
    limit = max(LARGEST_GROWTH * archive.stat().st_size, ALWAYS_ALLOWED)
    if sum(sizes) > limit or len(sizes) > MOST_MEMBERS:
        raise UserError(
            f"{printable(archive.name)}: refused, its {len(sizes):,} members would take {sum(sizes):,} bytes, "
            f"more than {LARGEST_GROWTH} times the archive"
        )


def _unpack_zip(archive: Path, draft: Path) -> Iterator[PurePosixPath]:
    with zipfile.ZipFile(archive) as file:
        members = [(safe_name(info.filename, archive), info) for info in file.infolist()]
        _check_growth(archive, [info.file_size for _, info in members])
        for name, info in members:
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(
                    f"{printable(archive.name)}: refused, its member {printable(name)!r} is a link or device"
                )
        for name, info in members:
            if not info.filename.endswith(("/", "\\")):
                with file.open(info) as source:
                    _copy(source, draft / name, info.file_size)
                yield name


def _unpack_tar(archive: Path, draft: Path) -> Iterator[PurePosixPath]:
    with tarfile.open(archive) as file:
        members = []
        for info in file:
            if info.name in (".", "./"):
                continue
            name = safe_name(info.name, archive)
            if not (info.isreg() or info.isdir()):
                raise UserError(
                    f"{printable(archive.name)}: refused, its member {printable(name)!r} is a link or device"
                )
            members.append((name, info))
            if len(members) % 1000 == 0:
                _check_growth(archive, [each.size for _, each in members])
        _check_growth(archive, [info.size for _, info in members])
        for name, info in members:
            source = file.extractfile(info)
            if info.isreg() and source is not None:
                _copy(source, draft / name, info.size)
                yield name


def _copy(source: IO[bytes], place: Path, size: int) -> None:
    """Write a member, whose length must be what the archive's directory says."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("xb") as file:
        shutil.copyfileobj(source, file, 2**20)
        if file.tell() != size:
            raise ValueError(f"{place.name} has {file.tell()} bytes, its directory says {size}")
