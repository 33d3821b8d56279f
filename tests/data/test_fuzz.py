"""Ten thousand broken inputs: each ends in a report or in one line, never in a traceback, a hang or a written file.

Videos are changed in their headers, where their sizes, lengths and codecs stand.
"""

import copy
import functools
import itertools
import json
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from data.data_yaml import list_images, read_data_yaml
from data.download import read_downloads
from data.formats.coco_json import read_coco
from data.formats.coco_truths import truths_of
from data.formats.convert import convert_coco, convert_voc
from data.formats.yolo import read_ids
from data.labels.doctor import Settings, examine
from data.labels.index import load_labels
from data.open.any_layout import open_data_set
from engine.export.backend import from_metadata, input_size
from engine.export.formats.folder import read_metadata
from engine.export.runtimes import open_backend
from engine.predict.frames import Frames
from tests.lively import lively_checkpoint
from utils.checkpoint import load_checkpoint
from utils.config.yaml_file import read_mapping
from utils.drawing.draw import write_image
from utils.errors import UserError

LABELS = b"0 .5 .5 .2 .2\n1 .1 .2 .05 .1\n2 .1 .1 .9 .1 .5 .9\n"
XML = b"""<annotation><filename>a.png</filename><size><width>40</width><height>20</height></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>
</object></annotation>"""
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><annotation>&c;</annotation>'
)
YAML = b"path: .\ntrain: images\nval: [images]\nnames: {0: cat, 1: dog, 2: cow}\nannotations: {val: a.json}\n"
YAML += b"downloads: [{url: 'http://x/a.zip', size: 3, md5: '00000000000000000000000000000000', target: a}]\n"
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 40, "neg_category_ids": [1]}],
    "categories": [{"id": 3, "name": "cat", "frequency": "r"}, {"id": 5, "name": "dog", "frequency": "f"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 5, 6], "area": 30, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 5, "segmentation": [[1, 1, 5, 5, 9, 1]], "iscrowd": 1},
    ],
}
TOKENS = [
    b"nan",
    b"inf",
    b"1e999",
    b"-1",
    b"99999999999999999999",
    b"../../x",
    b"/etc/passwd",
    b"\0",
    b"\xff\xfe",
    b"\n",
]
TOKENS += [
    b"1_0",
    b"<",
    b"&c;",
    b"<!DOCTYPE a>",
    b"]]>",
    b"{",
    b"[" * 3000,
    b"&a [*a, *a]",
    b"<<: *a",
    b"!!python/object:os.x",
]
TOKENS += [
    b"- ",
    b": ",
    b"'",
    b"\xed\xa0\x80",
    "犬".encode(),
    b"\r",
    b"\t",
    b"0x10",
    b"1e-400",
    b"true",
    b"~",
    b"%2e%2e/",
]
VALUES = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "../x",
    "\0",
    "a\nb",
    [],
    {},
    [[]],
    [None] * 5,
]
VALUES += ["x" * 5000, [1e308] * 4, ["1"] * 4, {"id": {}}, 1.5, "3", "\ud800", -(2**63), [[1, 2], [3]], 10**400]


def broken(content, rng):
    """The bytes with a few random changes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(content) + 1), rng.randrange(5)
        if kind == 0:
            content[at:at] = rng.choice(TOKENS)
        elif kind == 1:
            del content[at : at + rng.randint(1, 30)]
        elif kind == 2 and at < len(content):
            content[at] = rng.randrange(256)
        elif kind == 3:
            end = at + rng.randint(1, 8)
            content[at:end] = rng.choice(TOKENS)
        else:
            content[at:at] = content[at : at + 40]
    return bytes(content)


def broken_json(rng):
    """A COCO file with one or two of its nodes replaced or removed, or its text broken."""
    text = json.dumps(changed(COCO, rng)).encode("utf-8", "surrogatepass")
    return broken(text, rng) if rng.random() < 0.3 else text


def changed(document, rng):
    """A copy of a document with one or two of its nodes replaced or removed."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 2)):
        node, parent, key = document, None, None
        while isinstance(node, dict | list) and node and (parent is None or rng.random() < 0.8):
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            parent, node = node, node[key]
        if parent is None:
            break
        if rng.random() < 0.15:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    return document


@pytest.fixture
def folder(tmp_path):
    for name in ("images", "labels", "JPEGImages", "Annotations"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for name in ("images", "JPEGImages"):
        write_image(tmp_path / "set" / name / "a.png", np.zeros((20, 40, 3), np.uint8))
    (tmp_path / "set" / "data.yaml").write_bytes(b"train: images\nnames: [cat, dog, cow]\n")
    return tmp_path


def try_labels(folder, rng):
    (folder / "set" / "labels" / "a.txt").write_bytes(broken(LABELS, rng))
    spec = read_data_yaml(str(folder / "set" / "data.yaml"), folder)
    examine(spec, Settings((64, 64), ((9.0, 9.0),), 4.0), folder / "cache")
    load_labels([folder / "set/images/a.png"], [folder / "set/labels/a.txt"], 3, folder / "cache")


def try_xml(folder, rng):
    content = broken(BOMB if rng.random() < 0.1 else XML, rng)
    (folder / "set" / "Annotations" / "a.xml").write_bytes(content)
    convert_voc(folder / "set", None)


def try_json(folder, rng):
    path = folder / "set" / "val.json"
    path.write_bytes(broken_json(rng))
    (folder / "set" / "ids.json").write_bytes(path.read_bytes())
    for action in (
        lambda: truths_of(read_coco(path), [str(folder / "set/images/a.png")], ["cat", "dog"]),
        lambda: read_ids(folder / "set" / "ids.json"),
        lambda: convert_coco(path, None),
    ):
        try:
            action()
        except UserError as error:
            one_line(error)


DATA = b"classes = 3\ntrain = train.txt\nvalid = images/val.txt\nnames = obj.names\nbackup = backup/\n"
LISTED = b"images/a.png\n./images/a.png\n"
NAMES = b"cat\ndog\ncow\n"


def try_darknet(folder, rng):
    place = folder / "set"
    contents = {"obj.data": DATA, "train.txt": LISTED, "obj.names": NAMES}
    chosen = rng.choice(["obj.data", "obj.data", "train.txt", "obj.names"])
    for name, content in contents.items():
        (place / name).write_bytes(broken(content, rng) if name == chosen else content)
    spec = open_data_set(str(place / "obj.data"), folder, folder / "cache")
    for split in spec.splits:
        list_images(spec, split)


METADATA = {
    "names": {0: "cat", 1: "dog"}, "imgsz": [32, 64], "batch": 1, "stride": 32, "layout": "raw", "any_size": False,
    "args": {"batch": 1, "half": False, "int8": False, "dynamic": False, "nms": False},
    "nms_limits": {"conf": 0.25, "nms_iou": 0.6, "max_det": 300}, "photo_bits": 12,
    "val_settings": {"conf": 0.001, "nms_iou": 0.65, "max_det": 300, "bad_labels": "mend", "max_pixels": 178956970},
    "model_config": {
        "decode": "bounded", "xy_reach": 0.5, "strides": [16, 32],
        "anchors": [[[10.0, 14.0], [23.0, 27.0]], [[81.0, 82.0], [135.0, 169.0]]],
    },
}  # fmt: skip
CELLS = 2 * (2 * 4 + 1 * 2)  # of 32x64 px, two anchors each
OUTPUTS = {"raw": [(1, CELLS, 7)], "decoded": [(1, 6, CELLS)], "nms": [(1, 5, 4), (1, 5), (1, 5), (1,)]}


def try_metadata(folder, rng):
    """As text, as every runtime hands it over, and in the metadata.yaml of a folder."""
    layout = rng.choice(list(OUTPUTS))
    document = changed({**METADATA, "layout": layout}, rng)
    document["model_config"] = json.dumps(document.get("model_config"))
    if rng.random() < 0.5:
        values = {str(key): str(value) for key, value in document.items()}
        key = rng.choice(list(values))
        values[key] = broken(values[key].encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    else:
        text = yaml.safe_dump(document).encode("utf-8", "replace")
        (folder / "set" / "metadata.yaml").write_bytes(broken(text, rng) if rng.random() < 0.5 else text)
        values = read_metadata(folder / "set", "data.yaml")
    # The last output of a file with NMS counts its boxes.
    outputs = [np.zeros(shape, np.float32 if len(shape) > 1 else np.int32) for shape in OUTPUTS[layout]]
    backend = from_metadata(folder / "set", values, lambda images: outputs)
    input_size(backend, (), folder / "set")
    if layout == values["layout"] and backend.image_size == (32, 64):
        backend.run(torch.zeros(1, 3, 32, 64))


@functools.cache
def small_checkpoint():
    """The contents of a checkpoint with a narrow network."""
    with tempfile.TemporaryDirectory() as folder:
        path = lively_checkpoint(Path(folder) / "a.pt", "yolov3-tiny", {"channels": [8] * 7}, ("cat", "dog"), (32, 32))
        return load_checkpoint(path)


def try_weights(folder, rng):
    """A checkpoint whose tensors are whole, and what it says of itself is not."""
    whole = small_checkpoint()
    said = changed({name: whole[name] for name in ("version", "config", "names", "epoch", "metrics")}, rng)
    path = folder / "set" / "a.pt"
    try:
        torch.save({"format": whole["format"], "model": whole["model"], **said}, path)
    except UnicodeEncodeError:  # half a character: pickle has no such text
        return
    open_backend(path).run(torch.zeros(1, 3, 32, 32))


def video(name, codec):
    """The bytes of a video of three frames, and where its header stands."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{name}"
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), 5, (64, 48))
        for number in range(3):
            writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
        writer.release()
        content = Path(path).read_bytes()
    # MP4 keeps its header behind the pictures, AVI before them.
    moov, movi = content.find(b"moov"), content.find(b"movi")
    return content, range(moov, len(content)) if moov > 0 else range(movi)


@functools.cache
def videos():
    return {name: video(name, codec) for name, codec in (("clip.mp4", "mp4v"), ("clip.avi", "MJPG"))}


def try_video(folder, rng):
    name = rng.choice(["clip.mp4", "clip.avi"])
    content, header = videos()[name]
    spoilt = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, number = rng.choice(header), rng.choice([0, 1, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)])
        if rng.random() < 0.5:
            spoilt[at] = rng.randrange(256)
        else:
            spoilt[at : at + 4] = number.to_bytes(4, rng.choice(["big", "little"]))
    (folder / "set" / name).write_bytes(spoilt)
    frames = Frames(str(folder / "set" / name), 1)
    found = list(itertools.islice(frames, 100))
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.size for _, _, image in found)
    assert len(found) < 100 and frames.unread == (not found)


def try_yaml(folder, rng):
    path = folder / "set" / "data.yaml"
    path.write_bytes(broken(YAML, rng))
    for action in (
        lambda: [list_images(spec, split) for spec in [read_data_yaml(str(path), folder)] for split in spec.splits],
        lambda: read_downloads(read_mapping(path), path),
    ):
        try:
            action()
        except UserError as error:
            one_line(error)


def one_line(error):
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 2000
    text.encode()


TRIES = {
    "labels": try_labels,
    "xml": try_xml,
    "json": try_json,
    "yaml": try_yaml,
    "darknet": try_darknet,
    "metadata": try_metadata,
    "weights": try_weights,
    "video": try_video,
}


# Networks that are whole are built and run.
FEW = {"weights": 40}
COUNTS = [(kind, FEW.get(kind, 300)) for kind in TRIES]
COUNTS += [pytest.param(kind, 10_000, marks=pytest.mark.slow) for kind in TRIES]


@pytest.mark.parametrize(("kind", "count"), COUNTS)
def test_broken_inputs_end_in_a_report_or_one_line(kind, count, folder):
    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(count):
        rng, start = random.Random(f"{kind} {seed}"), time.process_time()
        try:
            TRIES[kind](folder, rng)
        except UserError as error:
            one_line(error)
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}") from error
        # Of CPU: on a busy machine the wall clock says more about its other work. A refusal of deep YAML takes 1 s.
        assert time.process_time() - start < 10, f"{kind}, seed {seed}: a hang"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000, "kilobytes: something was expanded"
    shutil.rmtree(folder / "cache", ignore_errors=True)
    inputs = {"a.txt", "a.xml", "val.json", "ids.json", "data.yaml", "obj.data", "train.txt", "obj.names"}
    inputs |= {"metadata.yaml", "clip.mp4", "clip.avi", "a.pt"}
    assert sorted({path.name for path in folder.rglob("*") if path.is_file()} - inputs) == sorted({*names} - inputs)
