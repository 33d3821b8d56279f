"""The export guide's tables of runtimes: every number from the JSON, and nothing recommended that was not measured."""

import json
import re

import pytest

from docs.generate import runtimes
from docs.generate.blocks import fill
from docs.generate.pages import MAKERS
from engine.export.int8 import LARGEST_LOSS
from tests.paths import ROOT

PAGE = ROOT / "docs" / "guides" / "export.md"
BLOCKS = ("runtimes", "runtimes by cpu")


def changed(value):
    """The same document with every number of its rows another one."""
    if isinstance(value, dict):
        return {key: changed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [changed(each) for each in value]
    return value * 0.83 if isinstance(value, float | int) else value


def numbers_in(table):
    """The numbers in the cells of Markdown tables, but for those that are part of a word or a date."""
    rows = [line for line in table.splitlines() if line.startswith("|") and "---" not in line]
    heads = [line for line, after in zip(table.splitlines(), table.splitlines()[1:], strict=False) if "---" in after]
    text = "\n".join(line for line in rows if line not in heads)
    return re.findall(r"(?<![\w.-])\d*\.?\d+(?![\w-])", re.sub(r"\d{4}-\d\d-\d\d", "", text))


def values_of(document):
    return [value for row in document["rows"] for value in row.values() if isinstance(value, float | int)]


@pytest.mark.parametrize("change", [lambda rows: rows, changed], ids=["as measured", "others"])
def test_every_number_of_the_tables_is_in_the_json(change, tmp_path, monkeypatch):
    documents = [{**each, "rows": change(each["rows"])} for each in runtimes.documents()]
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.json").write_text(json.dumps(document))
    monkeypatch.setattr(runtimes, "FOLDER", tmp_path)
    known = [value for document in documents for value in values_of(document)]
    for block in BLOCKS:
        found = numbers_in(MAKERS[block]())
        assert len(found) > 5
        for text in found:
            half = 0.5001 * 10.0 ** -len(text.partition(".")[2])
            assert any(abs(float(text) - value) <= half for value in known), (block, text)


def test_the_page_itself_holds_no_figure():
    text = PAGE.read_text("utf-8")
    assert all(f"<!-- generated: {name} -->" in text for name in BLOCKS)
    assert not re.findall(r"\d ms|AP \.\d", text)
    assert "### " in fill(text, MAKERS)


@pytest.mark.parametrize("document", runtimes.documents(), ids=lambda each: each["machine"]["cpu"])
def test_every_document_says_where_it_comes_from(document):
    machine = document["machine"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", machine["date"])
    assert machine["cpu"]
    assert {"torch", "onnxruntime", "openvino"} <= machine["packages"].keys()
    assert machine["load"] >= 0
    assert document["threads"] == 1
    shown = runtimes.tables()
    for row in document["rows"]:
        assert f"| `{row['format']}` | {row['precision']} |" in shown or f"| {row['format']} |" in shown
    assert machine["date"] in shown
    assert "/" not in document["weights"]


def document_of(features, rows):
    machine = {"cpu": "some CPU", "features": features, "date": "2026-01-02", "packages": {}}
    named = [{"format": name, "precision": precision, **rest} for name, precision, rest in rows]
    return {"machine": machine, "rows": named, "imgsz": 320, "weights": "w", "data": "d", "split": "test"}


def timed(milliseconds, ap):
    return {"CPU ms": milliseconds, "lowest": milliseconds - 1, "highest": milliseconds + 1, "AP": ap}


def test_as_much_is_allowed_as_export_allows():
    assert runtimes.LARGEST_LOSS == LARGEST_LOSS


def test_the_fastest_that_keeps_its_ap_is_recommended(tmp_path, monkeypatch):
    rows = [
        ("pytorch", "float32", timed(40.0, 0.4)),
        ("onnx", "float32", timed(30.0, 0.4)),
        ("onnx", "int8", timed(9.0, 0.394)),
        ("openvino", "bf16", timed(20.5, 0.3955)),
        ("ncnn", "float32", {"note": "needs pnnx"}),
        ("openvino of ultralytics", "bf16", {"CPU ms": 5.0, "lowest": 4.0, "highest": 6.0, "ours / this": 4.1}),
    ]
    (tmp_path / "a.json").write_text(json.dumps(document_of(["avx512_vnni", "avx2"], rows)))
    monkeypatch.setattr(runtimes, "FOLDER", tmp_path)
    amx, vnni, neither = runtimes.recommendation().splitlines()[2:]
    assert "not measured" in amx
    assert "not measured" in neither
    cells = [cell.strip() for cell in vnni.strip("| ").split("|")]
    assert cells[1] == "`openvino`, bf16: 20.5 ms (AP .396)"
    assert cells[2] == "`onnx`, float32: 30 ms (AP .4)"
    assert cells[3] == "`pytorch`, float32: 40 ms (AP .4)"
    assert cells[4] == "some CPU, 2026-01-02"


@pytest.mark.parametrize(
    ("features", "kind"),
    [
        (["amx_bf16", "avx512_bf16"], "AMX"),
        (["avx512_vnni", "avx2"], "AVX512-BF16 or VNNI, no AMX"),
        (["avx_vnni"], "AVX512-BF16 or VNNI, no AMX"),
        (["avx512_f", "avx2"], "none of them"),
        ([], "none of them"),
    ],
)
def test_what_a_cpu_has(features, kind):
    assert runtimes.kind_of(document_of(features, [])) == kind


@pytest.mark.parametrize(
    ("value", "text"), [(0.3653, ".365"), (7.4, "7.4"), (25, "25"), (33.16, "33.2"), (120.4, "120"), (0, "0")]
)
def test_numbers_have_three_digits(value, text):
    assert runtimes.number(value) == text
