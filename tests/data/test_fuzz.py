"""Ten thousand broken inputs: each ends in a report or in one line, never in a traceback, a hang or a written file."""

import copy
import json
import random
import resource
import shutil
import time

import numpy as np
import pytest

from data.data_yaml import list_images, read_data_yaml
from data.download import read_downloads
from data.formats.coco_json import read_coco
from data.formats.coco_truths import truths_of
from data.formats.convert import convert_coco, convert_voc
from data.formats.yolo import read_ids
from data.labels.doctor import Settings, examine
from data.labels.index import load_labels
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
    """The document with one or two of its nodes replaced or removed, or its text broken."""
    document = copy.deepcopy(COCO)
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
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    return broken(text, rng) if rng.random() < 0.3 else text


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


TRIES = {"labels": try_labels, "xml": try_xml, "json": try_json, "yaml": try_yaml}


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", TRIES)
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
    inputs = {"a.txt", "a.xml", "val.json", "ids.json", "data.yaml"}
    assert sorted({path.name for path in folder.rglob("*") if path.is_file()} - inputs) == sorted({*names} - inputs)
