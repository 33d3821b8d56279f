"""Fetches the files that a data set declares: python -m data.download coco, the only command here that downloads.

python -m data.download coco                 below ./datasets; goes on where an interrupted download stopped
python -m data.download lvis --data-root /data --keep
"""

import argparse
import hashlib
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from data.data_yaml import data_root, find_data_yaml
from data.open.archive import is_archive, unpack
from utils.config.flags import Parser
from utils.config.yaml_file import kind_of, read_mapping
from utils.errors import UserError, nearest, printable, run_command
from utils.progress import Progress

CHUNK = 2**18
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the next attempt, doubled each time
TIMEOUT = 30.0
MIB = 2**20
KEYS = ("url", "size", "sha256", "md5", "files", "target")
HEX = {"sha256": 64, "md5": 32}


class Download(NamedTuple):
    """A declared file: address, size in bytes, checksums, and the folder below the datasets root it is for."""

    url: str
    target: PurePosixPath
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    listed_in: str = ""  # the list that declares it, together with others

    @property
    def name(self) -> str:
        """The file's name, from its address."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name


class Interrupted(Exception):
    """A transfer that ended early and can go on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; UserError for a file that cannot be had or is not what was declared."""
    options = _parser().parse_args(arguments)
    path = find_data_yaml(options.data)
    values = read_mapping(path)
    downloads = read_downloads(values, path)
    root = data_root(options.data_root)
    for listed_in, group in groupby(downloads, lambda download: download.listed_in):
        if listed_in:
            fetch_listed(list(group), root)
            continue
        for download in group:
            print(fetch(download, root, keep=options.keep))
    after = values.get("after_download")
    if isinstance(after, str):
        print(f"next: {printable(after)}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m data.download", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", metavar="NAME", help="built-in data set, or a data YAML with downloads")
    parser.add_argument("--data-root", default="", metavar="DIR", help="datasets root (default ./datasets)")
    parser.add_argument("--keep", action="store_true", help="keep the archives after unpacking")
    return parser


def read_downloads(values: dict[Any, Any], path: Path) -> list[Download]:
    """Return the declared downloads of a data YAML; UserError for a wrong or a missing declaration."""
    entries, shown = values.get("downloads"), printable(path)
    if isinstance(values.get("download"), str):
        raise UserError(f"{shown}: `download:` holds a script or an address, which is never run; declare `downloads:`")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{shown}: no downloads are declared (`downloads:` with url, size, sha256 or md5, target)")
    downloads = []
    for number, entry in enumerate(entries):
        where = f"{shown}: downloads[{number}]"
        if isinstance(entry, dict) and "files" in entry:
            downloads += _read_listed(entry, path, where)
        else:
            downloads.append(_read_download(entry, where))
    return downloads


def _read_listed(entry: dict[Any, Any], path: Path, where: str) -> list[Download]:
    """Return the downloads of a list beside the data YAML: a line `sha256  name` each, as sha256sum writes them."""
    name, base = entry["files"], entry.get("url")
    if not isinstance(name, str) or not name or PurePosixPath(name).name != name or "\\" in name or "\0" in name:
        raise UserError(f"{where}: files: expected the name of a list beside the data YAML, found {printable(name)!r}")
    if not isinstance(base, str) or not base.endswith("/"):
        raise UserError(f"{where}: url: expected the address of a folder, ending with /, found {printable(base, 80)!r}")
    unfit = sorted(str(key) for key in entry if key not in ("url", "files", "target"))
    if unfit:
        raise UserError(f"{where}: {printable(unfit[0])!r} is for a single file; beside `files` stand url and target")
    file, shown = path.with_name(name), printable(path.with_name(name))
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{where}: files: {shown} cannot be read: {printable(error)}") from None
    found = []
    for number, line in enumerate(lines, 1):
        digest, _, listed = line.partition("  ")
        if "/" in listed or not listed:
            raise UserError(f"{shown}:{number}: expected `sha256  name`, found {printable(line, 80)!r}")
        single = {"url": base + listed, "sha256": digest, "target": entry.get("target", ".")}
        found.append(_read_download(single, f"{shown}:{number}")._replace(listed_in=name))
    if not found:
        raise UserError(f"{where}: files: {shown} is empty")
    return found


def _read_download(entry: Any, where: str) -> Download:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected url, size, sha256 or md5, target, found {kind_of(entry)}")
    for key in entry:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {printable(key)!r}{nearest(str(key), KEYS)}")
    url, target, size = entry.get("url"), entry.get("target", "."), entry.get("size")
    if not isinstance(url, str) or not _is_address(url):
        raise UserError(f"{where}: url: expected http:// or https:// and a file, found {printable(url, 80)!r}")
    folder = PurePosixPath(target) if isinstance(target, str) else PurePosixPath("/")
    if folder.is_absolute() or ".." in folder.parts or "\\" in str(target) or "\0" in str(target):
        raise UserError(f"{where}: target: expected a folder below the datasets root, found {printable(target, 80)!r}")
    if size is not None and (type(size) is not int or size <= 0):
        raise UserError(f"{where}: size: expected bytes, found {printable(size, 40)!r}")
    for key, length in HEX.items():
        digest = entry.get(key)
        if digest is None:
            continue
        if not isinstance(digest, str) or len(digest) != length or set(digest.lower()) - set("0123456789abcdef"):
            raise UserError(f"{where}: {key}: expected {length} hexadecimal digits in quotes")
    return Download(url, folder, size, entry.get("sha256"), entry.get("md5"))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        name = PurePosixPath(unquote(parts.path)).name
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url
    unsafe = name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable() or ":" in name
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and not unsafe


def fetch_listed(downloads: Sequence[Download], root: Path) -> None:
    """Bring the files of one list to their folder; those that are there with the right contents stay."""
    progress = Progress(downloads[0].listed_in, len(downloads), unit="files")
    target, there = root / downloads[0].target, 0
    for download in downloads:
        file = target / download.name
        if _is_whole(file, download):
            there += 1
        else:
            fetch(download, root)
        progress.advance(1)
    progress.close()
    print(f"{downloads[0].listed_in}: {len(downloads):,} files in {printable(target)}, {there:,} of them already there")


def fetch(download: Download, root: Path, keep: bool = False) -> str:
    """Bring one file to its folder below root, unpacked if it is an archive, and says so; what is there stays."""
    folder, target = root / "downloads", root / download.target
    stamp, file = folder / f"{download.name}.done", folder / download.name
    shown = printable(download.name)
    if not download.listed_in and stamp.is_file() and stamp.read_text("utf-8", "replace").strip() == download.url:
        return f"{shown}: is there already (delete {printable(stamp)} to fetch it again)"
    members = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            _transfer(download, file.with_name(f"{file.name}.part"))
            file.with_name(f"{file.name}.part").replace(file)
        _verify(download, file)
        if is_archive(download.name) and not download.listed_in:
            members = unpack(file, target)
            if not keep:
                file.unlink()
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.move(file, target / download.name)
        if not download.listed_in:
            stamp.write_text(download.url + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"{shown}: cannot be written: {printable(error)}") from None
    return f"{shown}: {members:,} files in {printable(target)}" if members else f"{shown}: in {printable(target)}"


def _transfer(download: Download, part: Path) -> None:
    """Fetch into `part`, going on where it ends, in a few attempts; what is there stays for the next time."""
    for attempt in range(ATTEMPTS):
        before = _length(part)
        try:
            _attempt(download, part)
            return
        except Interrupted as error:
            reason = error
        if _length(part) == before and attempt == ATTEMPTS - 1:
            break
        time.sleep(PAUSE * 2**attempt)
    raise UserError(
        f"{printable(download.url)}: {printable(reason)}; {_length(part):,} bytes are kept, the same command goes on"
    )


def _attempt(download: Download, part: Path) -> None:
    """Make one connection; Interrupted if it ends early or cannot be made."""
    have = _length(part)
    if download.size is not None and have == download.size:
        return
    if download.size is not None and have > download.size:
        part.unlink()
        have = 0
    request = urllib.request.Request(download.url, headers={"User-Agent": "AlignYOLO"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with _opener().open(request, timeout=TIMEOUT) as response:
            _receive(download, part, response, have)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is no beginning of what the server has
            part.unlink(missing_ok=True)
            raise Interrupted("the server has less than was kept") from None
        if error.code < 500 and error.code not in (408, 429):
            raise UserError(
                f"{printable(download.url)}: the server answers {error.code} {printable(error.reason)}"
            ) from None
        raise Interrupted(f"the server answers {error.code}") from None
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise Interrupted(f"the transfer ended: {printable(getattr(error, 'reason', None) or error)}") from None


def _opener() -> urllib.request.OpenerDirector:
    """Open http and https only: urllib's own also knows file and ftp, to which a server could redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _receive(download: Download, part: Path, response: HTTPResponse, have: int) -> None:
    """Append what the server sends, or starts anew where it knows no ranges; never more than was declared."""
    resumed = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
    if response.status == 206 and not resumed:
        part.unlink(missing_ok=True)
        raise Interrupted("the server sent another range than was asked for")
    have = have if resumed else 0
    length = response.headers.get("Content-Length") or ""
    total = have + int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None
    expected = download.size if download.size is not None else total
    if total is not None and total != expected:
        raise UserError(f"{printable(download.url)}: the server has {total:,} bytes, {expected:,} were declared")
    if expected is not None and shutil.disk_usage(part.parent).free < expected - have:
        raise UserError(f"{printable(part.parent)}: too little room for {(expected - have) / MIB:,.0f} MiB")
    progress = Progress(printable(download.name), (expected or 0) // MIB, live=not download.listed_in, unit="MiB")
    done = have
    with part.open("ab" if resumed else "wb") as file:
        while chunk := response.read(CHUNK):
            if expected is not None and done + len(chunk) > expected:
                raise UserError(f"{printable(download.url)}: the server sends more than {expected:,} bytes")
            file.write(chunk)
            progress.advance((done + len(chunk)) // MIB - done // MIB)
            done += len(chunk)
    progress.close()
    if expected is not None and done < expected:
        raise Interrupted(f"the transfer ended at {done:,} of {expected:,} bytes")


def _verify(download: Download, file: Path) -> None:
    """Raise UserError, and no file any more, if it is not what was declared."""
    problem = ""
    if download.size is not None and _length(file) != download.size:
        problem = f"{_length(file):,} bytes, {download.size:,} were declared"
    for kind in HEX:
        declared = getattr(download, kind)
        if declared and not problem and _digest(file, kind) != declared.lower():
            problem = f"its {kind} is not the declared one"
    if problem:
        file.unlink()
        raise UserError(f"{printable(download.url)}: {problem}; the file was deleted")
    if not (download.sha256 or download.md5):
        print(f"note: {printable(download.name)}: no checksum is declared, only its size was compared", file=sys.stderr)


def _is_whole(file: Path, download: Download) -> bool:
    """Tell whether a listed file is there and is the declared one; one that cannot be read is not."""
    try:
        return file.is_file() and _digest(file, "sha256") == (download.sha256 or "").lower()
    except OSError:
        return False


def _digest(file: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with file.open("rb") as opened:
        while chunk := opened.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


if __name__ == "__main__":
    run_command(main)
