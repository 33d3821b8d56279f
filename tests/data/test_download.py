"""Downloads from a server on this machine: resumed, verified, and nothing outside the target folder."""

import hashlib
import http.server
import io
import stat
import tarfile
import threading
import zipfile

import pytest

import data.download
from data.data_yaml import read_data_yaml
from data.download import main, read_downloads
from data.open.archive import unpack
from tests.paths import ROOT, SHARED_DATA, needs_shared_data
from utils.config.yaml_file import read_mapping
from utils.errors import UserError


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


CONTENT = zipped({"set/a.txt": bytes(range(256)) * 2000, "set/b/c.txt": b"hello"})


class Server(http.server.ThreadingHTTPServer):
    """What it serves, how, and the Range header of every request."""

    content, ranges, cut_at, wrong_range, status = CONTENT, True, None, False, 200

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    def handle_error(self, *_):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if self.path == "/file.zip":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if server.status != 200 or start >= len(server.content):
            self.send_error(server.status if server.status != 200 else 416)
            return
        self.send_response(206 if start else 200)
        if start:
            shown = 0 if server.wrong_range else start
            self.send_header("Content-Range", f"bytes {shown}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = len(server.content)
        if server.cut_at and server.asked.count(None) + len(server.asked) <= 2:
            end = server.cut_at
        self.wfile.write(server.content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(data.download, "PAUSE", 0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def declare(server, tmp_path, name="/set.zip", **more):
    lines = [f"  - url: http://127.0.0.1:{server.server_port}{name}", "    target: here"]
    lines += [f"    {key}: {value!r}" for key, value in more.items()]
    path = tmp_path / "set.yaml"
    path.write_text("names: [a]\ntrain: here\ndownloads:\n" + "\n".join(lines) + "\n")
    return [str(path), "--data-root", str(tmp_path / "root")]


def facts(content=CONTENT):
    return {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "md5": hashlib.md5(content).hexdigest(),
    }


def files(tmp_path):
    return sorted(str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*") if path.is_file())


DONE = ["downloads/set.zip.done", "here/set/a.txt", "here/set/b/c.txt"]


def test_a_download_is_verified_unpacked_and_not_repeated(server, tmp_path, capsys):
    arguments = declare(server, tmp_path, **facts())
    main(arguments)
    assert files(tmp_path) == DONE
    assert (tmp_path / "root" / "here" / "set" / "b" / "c.txt").read_bytes() == b"hello"
    main(arguments)
    assert len(server.asked) == 1
    assert "is there already" in capsys.readouterr().out


@pytest.mark.parametrize("ranges", [True, False])
def test_a_truncated_transfer_goes_on(server, tmp_path, ranges):
    server.cut_at, server.ranges = len(CONTENT) // 2, ranges
    main(declare(server, tmp_path, **facts()))
    assert files(tmp_path) == DONE
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-"]


def test_what_is_there_is_kept_when_the_server_is_gone(server, tmp_path, monkeypatch):
    part = tmp_path / "root" / "downloads" / "set.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:100])
    arguments = declare(server, tmp_path, **facts())
    server.status = 503
    with pytest.raises(UserError, match="100 bytes are kept, the same command goes on"):
        main(arguments)
    assert part.read_bytes() == CONTENT[:100]
    server.status = 200
    main(arguments)
    assert files(tmp_path) == DONE
    assert server.asked[-1] == "bytes=100-"


def test_a_wrong_range_and_a_longer_part_start_anew(server, tmp_path):
    part = tmp_path / "root" / "downloads" / "set.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (len(CONTENT) + 5))
    main(declare(server, tmp_path))
    assert files(tmp_path) == DONE
    (tmp_path / "root" / "downloads" / "set.zip.done").unlink()
    part.write_bytes(b"x" * 50)
    server.wrong_range = True
    main(declare(server, tmp_path, **facts()))
    assert files(tmp_path) == DONE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "its sha256 is not the declared one; the file was deleted"),
        ({"md5": "0" * 32}, "its md5 is not the declared one"),
        ({"size": 10}, "10 were declared"),
    ],
)
def test_what_is_not_what_was_declared_leaves_nothing(server, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        main(declare(server, tmp_path, **{**facts(), **change}))
    assert files(tmp_path) == []


@pytest.mark.parametrize(("name", "message"), [("/file.zip", "."), ("/gone.zip", "404")])
def test_redirects_to_files_and_missing_files(server, tmp_path, name, message):
    if name == "/gone.zip":
        server.status = 404
    with pytest.raises(UserError, match=message) as error:
        main(declare(server, tmp_path, name))
    assert "\n" not in str(error.value)
    assert files(tmp_path) == []


def tarred(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = content
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            file.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return buffer.getvalue()


def zip_link():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc")
    return buffer.getvalue()


FINE = ("fine.txt", tarfile.REGTYPE, b"fine")
HOSTILE = {
    "parent.zip": zipped({"fine.txt": b"", "../out.txt": b"x"}),
    "absolute.zip": zipped({"/tmp/out.txt": b"x"}),
    "backslash.zip": zipped({"..\\out.txt": b"x"}),
    "server.zip": zipped({"\\\\server\\out.txt": b"x"}),
    "deep backslash.zip": zipped({"fine.txt": b"", "a\\..\\..\\out.txt": b"x"}),
    "backslash drive.zip": zipped({"C:\\out.txt": b"x"}),
    "drive.zip": zipped({"C:/out.txt": b"x"}),
    "link.zip": zip_link(),
    "bomb.zip": zipped({"zeros": bytes(300 * 2**20)}),
    "parent.tar": tarred(FINE, ("a/../../out.txt", tarfile.REGTYPE, b"x")),
    "absolute.tar": tarred(("/tmp/out.txt", tarfile.REGTYPE, b"x")),
    "link.tar": tarred(("link", tarfile.SYMTYPE, "/tmp"), ("link/out.txt", tarfile.REGTYPE, b"x")),
    "hard.tar": tarred(("link", tarfile.LNKTYPE, "/etc/passwd")),
    "device.tar": tarred(("null", tarfile.CHRTYPE, b"")),
    "fifo.tar": tarred(("fifo", tarfile.FIFOTYPE, b"")),
    "cut.zip": CONTENT[: len(CONTENT) // 2],
    "cut.tar": tarred(FINE, ("b.txt", tarfile.REGTYPE, bytes(20_000)))[:9000],
    "twice.zip": None,
    "text.tar.gz": b"hello",
    "empty.zip": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_writes_nothing(name, tmp_path):
    content = HOSTILE[name]
    if content is None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a", "1")
            file.writestr("a", "2")
        content = buffer.getvalue()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        unpack(tmp_path / name, tmp_path / "target" / "deep")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_an_archive_with_backslashes_has_folders(tmp_path):
    """As older Windows programs write them."""
    (tmp_path / "old.zip").write_bytes(zipped({"images\\train\\": b"", "images\\train\\a.jpg": b"a", "b.txt": b"b"}))
    assert unpack(tmp_path / "old.zip", tmp_path / "target") == 2
    found = [path.relative_to(tmp_path / "target").as_posix() for path in (tmp_path / "target").rglob("*.*")]
    assert sorted(found) == ["b.txt", "images/train/a.jpg"]


def test_a_link_in_the_target_is_not_followed(tmp_path):
    (tmp_path / "set.zip").write_bytes(CONTENT)
    (tmp_path / "target").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target" / "set").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="by a link there"):
        unpack(tmp_path / "set.zip", tmp_path / "target")
    assert not list((tmp_path / "elsewhere").iterdir())


def declare_list(server, tmp_path, lines):
    (tmp_path / "photos.txt").write_text("\n".join(lines) + "\n")
    path, entry = tmp_path / "set.yaml", f"url: 'http://127.0.0.1:{server.server_port}/a/', files: photos.txt"
    path.write_text(f"names: [a]\ntrain: here\ndownloads: [{{{entry}, target: here}}]\n")
    return [str(path), "--data-root", str(tmp_path / "root")]


def test_a_list_brings_each_of_its_files_once(server, tmp_path, capsys):
    digest = facts()["sha256"]
    arguments = declare_list(server, tmp_path, [f"{digest}  {name}" for name in ("1.jpg", "2.jpg", "3.zip")])
    main(arguments)
    there = ["here/1.jpg", "here/2.jpg", "here/3.zip"]
    assert files(tmp_path) == there, "as they are: no archive of a list is unpacked"
    assert capsys.readouterr().out.count("\n") == 1
    (tmp_path / "root" / "here" / "2.jpg").write_bytes(b"damaged")
    main(arguments)
    assert files(tmp_path) == there
    assert (tmp_path / "root" / "here" / "2.jpg").read_bytes() == CONTENT
    assert len(server.asked) == 4, "three, and the damaged one again"
    assert "photos.txt: 3 files" in (out := capsys.readouterr().out)
    assert "2 of them already there" in out


def test_a_list_with_a_wrong_checksum_ends_there(server, tmp_path):
    with pytest.raises(UserError, match="1.jpg: its sha256 is not the declared one"):
        main(declare_list(server, tmp_path, ["0" * 64 + "  1.jpg"]))
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.jpg", "photos.txt:1: expected `sha256  name`"),
        ("0" * 64 + "  ../1.jpg", "photos.txt:1: expected `sha256  name`"),
        ("0" * 64 + "  ..", "photos.txt:1: url"),
        ("0" * 63 + "  1.jpg", "photos.txt:1: sha256: expected 64 hexadecimal digits"),
        ("", "photos.txt:1: expected"),
    ],
)
def test_wrong_lists_are_one_line(server, tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        main(declare_list(server, tmp_path, [line]))
    assert not server.asked


@needs_shared_data
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_the_list_of_coco128_is_of_its_photos(split):
    path = ROOT / "data" / "coco128.yaml"
    listed = {
        each.name: each.sha256
        for each in read_downloads(read_mapping(path), path)
        if each.listed_in == f"coco128-{split}.txt"
    }
    photos = sorted((SHARED_DATA / "coco128" / "images" / split).iterdir())
    assert listed == {photo.name: hashlib.sha256(photo.read_bytes()).hexdigest() for photo in photos}


@pytest.mark.parametrize("name", ["coco", "coco128", "lvis", "voc"])
def test_the_built_in_sets_declare_what_can_be_checked(name, tmp_path):
    path = ROOT / "data" / f"{name}.yaml"
    downloads = read_downloads(read_mapping(path), path)
    assert all(each.md5 or each.sha256 for each in downloads)
    with pytest.raises(UserError, match=f"python -m data.download {name}"):
        read_data_yaml(name, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a]\ndownload: curl x | sh\n", "which is never run"),
        ("names: [a]\n", "no downloads are declared"),
        ("downloads: [3]\n", "found a number"),
        ("downloads: [{url: 'file:///etc/passwd'}]\n", "expected http:// or https://"),
        ("downloads: [{url: 'http://x/..'}]\n", "expected http:// or https://"),
        ("downloads: [{url: 'http://x/a%2F..%2Fb'}]\n", "."),
        ("downloads: [{url: 'http://x/a.zip', target: ../..}]\n", "below the datasets root"),
        ("downloads: [{url: 'http://x/a.zip', size: -1}]\n", "expected bytes"),
        ("downloads: [{url: 'http://x/a.zip', md5: abc}]\n", "32 hexadecimal digits"),
        ("downloads: [{url: 'http://x/a.zip', sha265: abc}]\n", "did you mean 'sha256'"),
        ("downloads: [{url: 'http://x/a/', files: ../a.txt}]\n", "files: expected the name of a list"),
        ("downloads: [{url: 'http://x/a', files: a.txt}]\n", "expected the address of a folder"),
        ("downloads: [{url: 'http://x/a/', files: a.txt, size: 3}]\n", "'size' is for a single file"),
        ("downloads: [{url: 'http://x/a/', files: a.txt}]\n", "a.txt cannot be read"),
    ],
)
def test_wrong_declarations_are_one_line(text, message, tmp_path):
    path = tmp_path / "set.yaml"
    path.write_text(text)
    if "%2F" in text:
        assert all("/" not in each.name for each in read_downloads(read_mapping(path), path))
        return
    with pytest.raises(UserError, match=message):
        main([str(path), "--data-root", str(tmp_path / "root")])
    assert not (tmp_path / "root").exists()
