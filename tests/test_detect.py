"""detect.py as a person runs it, on every kind of source, and `load` as Python code uses it."""

import csv
import json
import os
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
import torch

from detect import detect, load
from engine.predict.output import Output
from export import export
from tests.lively import lively_checkpoint
from tests.test_commands import one_line_error, run
from utils.config.knobs import DetectConfig
from utils.errors import CommandError, UserError

NAMES = ("cat", "dog", "a/b")
HEIGHT, WIDTH = 60, 100


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    """An untrained network with lively heads: it sees things everywhere."""
    path = tmp_path_factory.mktemp("models é") / "best.pt"
    return lively_checkpoint(path, "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, NAMES, (64, 96))


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def write_video(path, frames=7):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (WIDTH, HEIGHT))
    for number in range(frames):
        video.write(picture(number))
    video.release()
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "my photos é"
    folder.mkdir()
    for number, suffix in enumerate(("jpg", "png", "bmp")):
        (folder / f"photo {number}.{suffix}").write_bytes(cv2.imencode(f".{suffix}", picture(number))[1].tobytes())
    return folder


@pytest.fixture
def found(best, tmp_path, capsys):
    """Runs detect() and gives its folder and what it printed."""

    def detected(source, **flags):
        settings = {"weights": str(best), "source": str(source), "project": str(tmp_path / "runs"), **flags}
        return detect(**settings), capsys.readouterr()

    return detected


def pictures(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_a_folder_goes_on_after_a_broken_photo(photos, found):
    (photos / "cut.jpg").write_bytes((photos / "photo 0.jpg").read_bytes()[:300])
    (photos / "empty.png").touch()
    (photos / "text.jpg").write_text("hello")
    (photos / "notes.txt").write_text("no photo")
    folder, said = found(photos)
    assert pictures(folder) == ["photo 0.jpg", "photo 1.png", "photo 2.jpg"]
    assert sorted(line.split(": ")[1].rpartition("/")[2] for line in said.err.splitlines()) == [
        "cut.jpg",
        "empty.png",
        "text.jpg",
    ]
    last = said.out.splitlines()[-1]
    assert last.startswith("3 images, ")
    assert ", 3 could not be read; written to " in last


def test_image_glob_and_list(photos, found, tmp_path, monkeypatch):
    assert pictures(found(photos / "photo 1.png")[0]) == ["photo 1.png"]
    assert pictures(found(photos / "ph*o 2.*")[0]) == ["photo 2.jpg"]
    # Names are relative to the list or to the working directory; one that is missing does not end the others.
    listed = photos / "list é.txt"
    listed.write_text("photo 0.jpg\n\nmissing.jpg\nmy photos é/photo 1.png\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    folder, said = found(listed)
    assert pictures(folder) == ["photo 0.jpg", "photo 1.png"]
    assert "missing.jpg: does not exist; left out" in said.err
    assert "1 could not be read" in said.out


def test_globs_of_a_list_are_relative_to_it_too_and_said_where_they_match_nothing(photos, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (photos / "notes.txt").write_text("no photo")
    listed = photos / "list.txt"
    listed.write_text("*.png\nmy photos é/*.bmp\nnone*.jpg\nnotes.txt\n", "utf-8")
    folder, said = found(listed)
    assert pictures(folder) == ["photo 1.png", "photo 2.jpg"]
    assert said.err.splitlines() == [
        "warning: none*.jpg: matches nothing; left out",
        "warning: notes.txt: neither a photo nor a video by its suffix; left out",
    ]
    assert "2 could not be read" in said.out
    listed.write_text("none*.jpg\n")
    with pytest.raises(UserError, match="a list of 1 files, none of which exists"):
        found(listed)


def test_same_names_in_two_folders_are_two_pictures(photos, found, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes((photos / "photo 1.png").read_bytes())
    (tmp_path / "list.txt").write_text("one/a.png\ntwo/a.png\n")
    assert pictures(found(tmp_path / "list.txt")[0]) == ["a.png", "a_2.png"]


@pytest.mark.parametrize("way", ["folder", "link", "hard link", "other suffix", "sub-folder", "list", "crops"])
def test_no_drawn_picture_takes_the_place_of_a_source(way, photos, found, tmp_path):
    flags = {"project": str(tmp_path), "name": photos.name, "exist_ok": True}
    (photos / "sub").mkdir()
    write_video(photos / "sub" / "clip.mp4", 2)
    (photos / "crops" / "0_cat").mkdir(parents=True)
    (photos / "crops" / "0_cat" / "x_0.jpg").write_bytes((photos / "photo 0.jpg").read_bytes())
    source = photos
    if way == "link":
        (tmp_path / "link").symlink_to(photos)
        flags["name"] = "link"
    elif way == "hard link":
        (tmp_path / "out").mkdir()
        os.link(photos / "photo 1.png", tmp_path / "out" / "photo 1.png")
        flags["name"] = "out"
    elif way == "other suffix":  # of which the first takes the name of the second
        (photos / "photo 0.bmp").write_bytes((photos / "photo 2.bmp").read_bytes())
        (tmp_path / "list.txt").write_text(f"{photos}/photo 0.bmp\n{photos}/photo 0.jpg\n", "utf-8")
        source = tmp_path / "list.txt"
    elif way == "sub-folder":
        source, flags = photos / "sub", {**flags, "recursive": True, "name": f"{photos.name}/sub"}
    elif way == "list":
        source = tmp_path / "list.txt"
        source.write_text(f"{photos}/photo 1.png\n", "utf-8")
    elif way == "crops":
        source, flags = photos / "crops" / "0_cat", {**flags, "save": False, "save_crop": True}
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"--exist-ok: .* is a file of --source, and would be replaced"):
        found(source, **flags)
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before
    # Other names, and other folders, are fine.
    folder, _ = found(photos, exist_ok=True, name="again")
    assert pictures(found(photos, exist_ok=True, name="again")[0]) == pictures(folder)


def test_everything_that_is_saved_says_the_same(photos, found, best):
    flags = dict.fromkeys(("save_txt", "save_csv", "save_json", "save_crop"), True)
    folder, said = found(photos, **flags, conf=0.3)
    rows = json.loads((folder / "detections.json").read_text())
    assert len(rows) > 3
    with (folder / "detections.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [{**row, "frame": ""} for row in table] == [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in rows
    ]
    assert f"{len(rows)} detections" in said.out.splitlines()[-1]
    model = load(best, conf=0.3)
    for path in sorted(photos.iterdir()):
        (results,) = model(path)
        own = [row for row in rows if row["image"] == str(path)]
        assert [row["class"] for row in own] == results.boxes.cls.int().tolist()
        corners = [[row[side] for side in ("x1", "y1", "x2", "y2")] for row in own]
        assert np.allclose(corners, results.boxes.xyxy.numpy(), atol=0.006)
        lines = [line.split() for line in (folder / "labels" / f"{path.stem}.txt").read_text().splitlines()]
        assert [int(line[0]) for line in lines] == [row["class"] for row in own]
        cx, cy, w, h = np.array([line[1:5] for line in lines], float).T * [[WIDTH], [HEIGHT], [WIDTH], [HEIGHT]]
        assert np.allclose(np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1), corners, atol=0.01)
        assert np.allclose([float(line[5]) for line in lines], [row["score"] for row in own], atol=1e-5)
    # A class's name is not a path.
    assert {crop.parent.name for crop in (folder / "crops").glob("*/*")} <= {"0_cat", "1_dog", "2_a_b"}
    for number, row in enumerate(each for each in rows if each["image"].endswith("photo 1.png")):
        (crop,) = (folder / "crops").glob(f"*/photo 1_{number}.jpg")
        height, width = cv2.imdecode(np.fromfile(crop, np.uint8), 1).shape[:2]
        assert abs(width - (row["x2"] - row["x1"])) < 2
        assert abs(height - (row["y2"] - row["y1"])) < 2


@pytest.mark.parametrize("asked", ["save_csv", "save_json", "save_txt"])
def test_rows_are_kept_for_a_table_alone(asked, best, photos, tmp_path):
    """A stream that nobody stops would fill the memory with them."""
    model, path = load(best, conf=0.3), str(photos / "photo 1.png")
    output = Output(tmp_path, DetectConfig(**{asked: True}, save=False), NAMES, "float32")
    for frame in range(3):
        output.add(path, frame, picture(1), model(path)[0], 30.0)
    assert output.detections > 0
    assert len(output.rows) == (output.detections if asked != "save_txt" else 0)


def test_only_these_classes(photos, found):
    rows = json.loads((found(photos, save_json=True)[0] / "detections.json").read_text())
    dogs = json.loads((found(photos, save_json=True, classes=["dog"])[0] / "detections.json").read_text())
    assert dogs == [row for row in rows if row["name"] == "dog"]
    assert 0 < len(dogs) < len(rows)
    with pytest.raises(UserError, match="no class 'dgo'; did you mean 'dog'"):
        found(photos, classes=["dgo"])


def test_nothing_found_says_how_near_it_was(photos, found, best):
    photo = photos / "photo 1.png"
    score, label = max((float(each.conf), int(each.cls)) for each in load(best, conf=0.01)(photo)[0].boxes)
    conf = min(score + 0.02, 0.999)
    near = f"; best score {score:.2f} '{NAMES[label]}'".replace("0.", ".")
    limit = f"{conf:.2f}".removeprefix("0")
    assert f"photo 1.png: 0 detections >= {limit}{near}" in found(photo, conf=conf)[1].out
    other = NAMES[(label + 1) % 3]  # of the classes asked for, not of those that are found but not wanted
    out = found(photo, conf=conf, classes=[other])[1].out
    assert f"'{other}'" in out.splitlines()[0]


def test_a_video(tmp_path, found):
    source = write_video(tmp_path / "clip.mp4")
    folder, said = found(source, save_csv=True, save_txt=True, vid_stride=2)
    video = cv2.VideoCapture(str(folder / "clip.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FRAME_WIDTH)) == (3, WIDTH)
    assert video.get(cv2.CAP_PROP_FPS) == 2.5, "it lasts as long as the source, of which it holds every other frame"
    # Numbered as the source numbers them.
    assert [line.split(":")[0] for line in said.out.splitlines()[:-1]] == [f"clip.mp4 frame {n}" for n in (2, 4, 6)]
    assert sorted(path.name for path in (folder / "labels").iterdir()) == [f"clip_00000{n}.txt" for n in (2, 4, 6)]
    with (folder / "detections.csv").open(encoding="utf-8", newline="") as file:
        assert {row["frame"] for row in csv.DictReader(file)} == {"2", "4", "6"}


def test_a_video_shorter_than_the_stride_is_not_called_damaged(tmp_path, photos, found):
    write_video(photos / "short.mp4", 3)
    (photos / "damaged.mp4").write_bytes(b"no video" * 100)
    said = found(photos, vid_stride=5)[1].err.splitlines()
    assert [line.rpartition("/")[2] for line in said] == [
        "damaged.mp4: no video, or a damaged one; left out",
        "short.mp4: has 3 frames, fewer than --vid-stride 5; left out",
    ]


def test_every_frame_of_a_video_at_an_address_is_taken(tmp_path, found):
    clip = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (WIDTH, HEIGHT))
    for number in range(45):
        clip.write(picture(number))
    clip.release()
    handler = partial(Quiet, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        folder, said = found(f"http://127.0.0.1:{server.server_port}/clip.avi")
    finally:
        server.shutdown()
        server.server_close()
    assert "the stream ended after 45 frames" in said.out
    (video,) = folder.glob("*.mp4")
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 45


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each of them."""

    def log_message(self, *arguments):
        pass


def test_broken_videos_do_not_end_a_folder(photos, found):
    """The first, the middle and the last of the videos."""
    for name in ("a.mp4", "c.mp4", "e.mp4"):
        (photos / name).write_bytes(b"no video" * 100)
    for name in ("b.mp4", "d.mp4"):
        write_video(photos / name, 2)
    folder, said = found(photos)
    assert [name for name in pictures(folder) if name.endswith("mp4")] == ["b.mp4", "d.mp4"]
    assert "7 images, " in said.out.splitlines()[-1]
    assert "3 could not be read" in said.out.splitlines()[-1]
    assert [line.rpartition("/")[2] for line in said.err.splitlines()] == [
        f"{name}.mp4: no video, or a damaged one; left out" for name in "ace"
    ]


def test_a_video_on_a_full_disk_ends_in_an_error(photos, found, tmp_path, capsys):
    resource = pytest.importorskip("resource", reason="limits the size of files")
    write_video(photos / "clip.mp4", 50)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))  # beyond it writing fails, as on a full disk
    try:
        with pytest.raises(CommandError, match=r"clip\.mp4: could not be written in full") as caught:
            found(photos, name="full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 1
    assert pictures(tmp_path / "runs" / "full") == ["photo 0.jpg", "photo 1.png", "photo 2.jpg"]
    said = capsys.readouterr()
    assert "clip.mp4: could not be written (is the disk full?" in said.err
    assert "53 images, " in said.out


class Camera(BaseHTTPRequestHandler):
    """Sends a few JPEGs as MJPEG, once; later it is gone."""

    def do_GET(self):  # noqa: N802 - http.server's name
        if self.server.sent:
            self.send_error(503)
            return
        self.server.sent = True
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(30):
            jpeg = cv2.imencode(".jpg", picture(number))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def camera():
    server = HTTPServer(("127.0.0.1", 0), Camera)
    server.sent = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/live.mjpg"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_stream_that_ends(camera, found):
    folder, said = found(camera, save_json=True)
    frames = [line for line in said.out.splitlines() if " frame " in line]
    assert f"the stream ended after {len(frames)} frames" in said.out
    assert len(frames) > 0
    assert [name.rpartition(".")[2] for name in pictures(folder)] == ["json", "mp4"]
    # It is gone now, which is one line.
    with pytest.raises(UserError, match="no such webcam or stream"):
        found(camera)


def test_stopped_by_hand_what_was_found_is_written(photos, found, monkeypatch):
    from engine.predict import frames as detection

    seen = []

    def read(path, **settings):
        seen.append(path)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return picture(len(seen))

    monkeypatch.setattr(detection, "read_image", read)
    with pytest.raises(KeyboardInterrupt):
        found(photos, save_json=True, name="stopped")
    rows = json.loads((photos.parent / "runs" / "stopped" / "detections.json").read_text())
    assert {row["image"] for row in rows} == set(seen[:2])


@pytest.mark.parametrize("fmt", ["onnx", "torchscript", "openvino", "safetensors"])
@pytest.mark.parametrize("layout", ["decoded", "nms"])
def test_every_kind_of_weights_finds_the_same(fmt, layout, best, photos, tmp_path):
    if (fmt, layout) in {("torchscript", "nms"), ("safetensors", "nms")}:
        pytest.skip("has no such layout")
    (file,) = export(weights=str(best), format=[fmt], layout=layout, output=str(tmp_path / "best"))
    photo = photos / "photo 1.png"
    (expected,), (results,) = load(best, precision="float32")(photo), load(file, precision="float32")(photo)
    assert len(expected) > 0
    assert torch.equal(results.boxes.cls, expected.boxes.cls)
    assert torch.allclose(results.boxes.conf, expected.boxes.conf, atol=1e-3)
    assert torch.allclose(results.boxes.xyxy, expected.boxes.xyxy, atol=0.5)


def test_load_takes_one_side_as_the_flag_does(best, photos):
    photo = str(photos / "photo 0.jpg")
    (square,), (same,) = (load(best, imgsz=size, conf=0.01)(photo) for size in (64, (64, 64)))
    assert len(square) and torch.equal(square.boxes.data, same.boxes.data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confs": 0.3}, "load: unknown setting 'confs'; did you mean 'conf'?"),
        ({"source": "photos"}, "load: unknown setting 'source'"),
        ({"conf": 2}, "--conf is 2.0: expected 0 to 1"),
        ({"imgsz": 32.5}, "--imgsz is '32.5': expected a whole number"),
    ],
)
def test_load_refuses_settings_in_one_line(best, settings, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        load(best, **settings)


def test_load_gives_ultralytics_results(best, photos):
    from ultralytics.engine.results import Results  # offline and silent: detect imported the door first

    model = load(best, conf=0.3)
    path = photos / "photo 1.png"
    (results,) = model(path)
    assert isinstance(results, Results)
    assert results.names == model.names == dict(enumerate(NAMES))
    assert results.path == str(path)
    assert results.orig_shape == (HEIGHT, WIDTH)
    assert results.orig_img[0, 0].tolist() == picture(1)[0, 0].tolist()  # BGR, as everywhere in ultralytics
    boxes = results.boxes.xyxy
    assert len(boxes) > 0
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= WIDTH).all()
    assert (boxes[:, 3] <= HEIGHT).all()
    assert (results.boxes.conf > 0.3).all()
    array = picture(1)[..., ::-1].copy()
    for other in model([array, str(path)]):
        assert torch.equal(other.boxes.data, results.boxes.data)
    assert len(model(path, conf=0.6)[0]) < len(results)
    assert results.plot().shape == (HEIGHT, WIDTH, 3)


WRONG_SOURCES = {
    "missing": ("nothing.jpg", "nothing.jpg does not exist"),
    "no match": ("none*.jpg", "No images or videos found in none*.jpg"),
    "damaged": ("damaged.jpg", "nothing in it could be read"),
    "damaged video": ("damaged.mp4", "nothing in it could be read"),
    "list": ("list.txt", "a list of 2 files, none of which exists"),
    "binary list": ("binary.txt", "binary.txt"),
    "empty folder": ("empty", "No images or videos found in empty."),
    "no webcam": ("63", "no such webcam or stream"),
    "no stream": ("http://127.0.0.1:9/x.mjpg", "no such webcam or stream"),
    "none": ("", "expected an image, folder, glob, list file, video, webcam number or stream address"),
}


@pytest.mark.parametrize("kind", WRONG_SOURCES)
def test_wrong_sources(kind, best, tmp_path, monkeypatch):
    source, message = WRONG_SOURCES[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    (tmp_path / "damaged.mp4").write_bytes(bytes(100))
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "binary.txt").write_bytes(os.urandom(50) + b"\xff\xfe")
    with pytest.raises(UserError) as caught:
        detect(weights=str(best), source=source, project=str(tmp_path / "runs"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_the_command(best, photos, tmp_path):
    result = run("detect.py", "--weights", best, "--source", photos, "--project", tmp_path / "runs", "--save-csv")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 4
    wrong = run("detect.py", "--weights", best, "--source", tmp_path / "none.mp4")
    assert "none.mp4 does not exist" in one_line_error(wrong)
    assert wrong.stderr.count("\n") == 1


def test_sub_folders_are_taken_when_asked_and_counted_when_not(photos, found, tmp_path):
    (photos / "2026" / "june").mkdir(parents=True)
    (photos / "2026" / "june" / "photo 1.png").write_bytes((photos / "photo 1.png").read_bytes())
    (photos / "2026" / "upper.JFIF").write_bytes((photos / "photo 0.jpg").read_bytes())
    (photos / "2026" / "notes.txt").write_text("no photo")
    (photos / "again").symlink_to(photos)
    folder, said = found(photos)
    assert pictures(folder) == ["photo 0.jpg", "photo 1.png", "photo 2.jpg"]
    assert ", 2 in sub-folders left out (--recursive takes them)" in said.out.splitlines()[-1]
    folder, said = found(photos, recursive=True, save_txt=True, save_crop=True, save_json=True)
    drawn = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".jpg", ".png")}
    nested = {"2026/june/photo 1.png", "2026/upper.jpg", "photo 0.jpg", "photo 1.png", "photo 2.jpg"}
    assert {name for name in drawn if not name.startswith("crops/")} == nested
    labels = {path.relative_to(folder / "labels").as_posix() for path in folder.rglob("*.txt")}
    assert labels == {str(name)[:-4] + ".txt" for name in nested}
    assert "left out" not in said.out
    # The same photo in two places: the same boxes.
    rows = json.loads((folder / "detections.json").read_text())
    places = ("photo 1.png", "2026/june/photo 1.png")
    own, other = ([row["x1"] for row in rows if row["image"] == str(photos / name)] for name in places)
    assert own == other
    assert len(own) > 0
    with pytest.raises(UserError, match="--recursive: expected --source to be a folder"):
        found(photos / "photo 1.png", recursive=True)
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "inner" / "a.png").write_bytes((photos / "photo 1.png").read_bytes())
    with pytest.raises(UserError, match="No images or videos found in .*, but 1 in its sub-folders: --recursive"):
        found(tmp_path / "outer")


def test_a_coco_file_of_detections_is_read_as_truths(photos, found, tmp_path):
    """By pycocotools, and by convert.py as any other COCO file: the boxes and the scores that were found."""
    from pycocotools.coco import COCO

    (photos / "sub").mkdir()
    (photos / "sub" / "grey.png").write_bytes(cv2.imencode(".png", np.full((40, 40), 9, np.uint8))[1].tobytes())
    write_video(photos / "clip.mp4", 3)
    folder, said = found(photos, recursive=True, save_coco=True, save_json=True, conf=0.3)
    rows = json.loads((folder / "detections.json").read_text())
    file = folder / "annotations" / "instances_default.json"
    coco = COCO(str(file))
    assert [coco.cats[number]["name"] for number in sorted(coco.cats)] == list(NAMES)
    assert {each["file_name"] for each in coco.imgs.values()} == {
        path.relative_to(photos).as_posix() for path in photos.rglob("*") if path.suffix in (".jpg", ".png", ".bmp")
    }
    assert "3 frames of videos are no photos" in said.err
    for number, image in coco.imgs.items():
        own = [row for row in rows if row["image"] == str(photos / image["file_name"])]
        own = [row for row in own if row["x2"] > row["x1"] and row["y2"] > row["y1"]]
        boxes = np.array([each["bbox"] for each in coco.imgToAnns[number]]).reshape(-1, 4)
        corners = np.array([[row[side] for side in ("x1", "y1", "x2", "y2")] for row in own]).reshape(-1, 4)
        assert np.allclose(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), corners, atol=0.006)
        assert [each["score"] for each in coco.imgToAnns[number]] == [row["score"] for row in own]
        assert [each["category_id"] - 1 for each in coco.imgToAnns[number]] == [row["class"] for row in own]
    from data.formats.convert import convert_coco

    read = convert_coco(file, None, photos=[photos])
    # Boxes that were cut off at the photo's edges may be the same then, and count once.
    different = {(each["image_id"], each["category_id"], *each["bbox"]) for each in coco.anns.values()}
    assert sum(len(each.objects) for each in read.photos) == len(different) > len(coco.imgs)
    assert {each.reason for each in read.findings} <= {"the same box of the same class stands here twice"}


def test_photos_above_the_limit_are_named_with_the_flag(photos, found):
    folder, said = found(photos, max_pixels=HEIGHT * WIDTH)
    assert len(pictures(folder)) == 3
    (photos / "large.png").write_bytes(cv2.imencode(".png", np.zeros((HEIGHT, WIDTH + 1), np.uint8))[1].tobytes())
    said = found(photos, max_pixels=HEIGHT * WIDTH)[1]
    assert (
        f"large.png: has 6,060 pixels, more than --max-pixels {HEIGHT * WIDTH} allows (a decompression bomb?); left out"
        in said.err
    )


def rows_of_labels(folder):
    """How many boxes each label file of a run holds."""
    return {path.stem: len(path.read_text().splitlines()) for path in (folder / "labels").iterdir()}


def test_no_label_file_or_crop_replaces_another(photos, found, tmp_path):
    """Of photos with one name, of one whose own name is the next number, and of a video's frames."""
    source = tmp_path / "source"
    source.mkdir()
    for name, number in (("a.jpg", 0), ("a.png", 1), ("a_2.jpg", 0), ("clip_000001.png", 1), ("grey.png", None)):
        pixels = picture(number) if number is not None else np.full((HEIGHT, WIDTH, 3), 114, np.uint8)
        (source / name).write_bytes(cv2.imencode(name[-4:], pixels)[1].tobytes())
    write_video(source / "clip.mp4", 2)
    folder, said = found(source, save_txt=True, save_crop=True, save_json=True, conf=0.3)
    rows = json.loads((folder / "detections.json").read_text())
    expected = {}
    own = {"a.jpg": "a", "a.png": "a_3", "a_2.jpg": "a_2", "clip_000001.png": "clip_000001", "grey.png": "grey"}
    for name, stem in own.items():
        expected[stem] = sum(row["image"] == str(source / name) for row in rows)
    for frame in (1, 2):
        expected[f"clip_2_{frame:06d}"] = sum(row["frame"] == frame for row in rows)
    assert rows_of_labels(folder) == expected
    whole = [row for row in rows if row["x2"] > row["x1"] and row["y2"] > row["y1"]]
    assert len(list((folder / "crops").glob("*/*"))) == len(whole) > 6
    for name, stem in (("a.png", "a_3"), ("clip.mp4", "clip_2")):
        assert f"{source / name}: written as {stem}, since" in said.out
    assert said.out.count(": written as ") == 2
    # Where nothing is written for a frame, the video keeps its name.
    assert "clip.mp4" in pictures(found(source)[0])


def test_a_photo_that_no_jpg_can_hold_does_not_end_the_run(photos, found):
    wide = np.tile(np.linspace(0, 255, 66000).astype(np.uint8)[None, :, None], (8, 1, 3))
    (photos / "a wide.png").write_bytes(cv2.imencode(".png", wide)[1].tobytes())
    (photos / "a wide.png").rename(photos / "a wide.tif")  # by its bytes a PNG, and drawn as .jpg by its name
    folder, said = found(photos, save_crop=True)
    assert pictures(folder) == ["a wide.png", "photo 0.jpg", "photo 1.png", "photo 2.jpg"]
    assert cv2.imdecode(np.fromfile(folder / "a wide.png", np.uint8), 1).shape == wide.shape
    assert "a wide.jpg: 66000x8 px, written as a wide.png" in said.out


def test_what_a_list_names_twice_is_taken_once(photos, found, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    listed = tmp_path / "list.txt"
    names = ("photo 1.png", "photo 0.jpg", "photo 1.png", "../my photos é/photo 1.png")
    listed.write_text("".join(f"my photos é/{name}\n" for name in names), "utf-8")
    folder, said = found(listed, save_json=True, conf=0.3)
    assert said.out.splitlines()[-1].startswith("2 images, ")
    assert [line.split(":")[0] for line in said.out.splitlines()[:2]] == ["photo 1.png", "photo 0.jpg"]
    assert f"warning: --source {listed}: 2 named another time: every photo and video is taken once" in said.err
    rows = json.loads((folder / "detections.json").read_text())
    corners = [(row["image"], row["class"], row["x1"], row["y1"], row["x2"], row["y2"], row["score"]) for row in rows]
    assert len(set(corners)) == len(corners) > 0


@pytest.mark.parametrize("conf", [50, -0.1, 1.01, float("nan"), "high"])
def test_a_call_refuses_a_confidence_that_is_none(conf, best, photos):
    model = load(best)
    with pytest.raises(UserError, match=f"^--conf is '?{conf}"):
        model(photos / "photo 1.png", conf=conf)
    for right in (0, 1, np.float32(0.5)):
        assert (model(photos / "photo 1.png", conf=right)[0].boxes.conf > right).all()
