"""The export guide's tables of runtimes, from the JSON that `python -m benchmarks.runtimes` wrote on each machine."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.generate.choices import markdown_table

FOLDER = Path(__file__).resolve().parents[2] / "results" / "runtimes"
# What a CPU has, best first, by the features of which one is enough.
KINDS = {
    "AMX": {"amx_bf16", "amx_int8"},
    "AVX512-BF16 or VNNI, no AMX": {"avx512_bf16", "avx512_vnni", "avx_vnni"},
    "none of them": set(),
}
LARGEST_LOSS = 0.005  # of AP, as export.py --int8 allows
COMMAND = "python -m benchmarks.runtimes"
SHOWN_FEATURES = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni")
Row = Mapping[str, Any]
Document = Mapping[str, Any]


def documents() -> list[Document]:
    """Return what was measured, a document for each machine, those of most features first."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return sorted(found, key=lambda document: list(KINDS).index(kind_of(document)))


def kind_of(document: Document) -> str:
    """Return what the CPU of a document has."""
    features = set(document["machine"]["features"])
    return next(kind for kind, any_of in KINDS.items() if not any_of or any_of & features)


def recommendation() -> str:
    """Write the fastest choice for each kind of CPU, among rows that were measured and keep their AP."""
    rows = []
    for kind in KINDS:
        measured = [document for document in documents() if kind_of(document) == kind]
        for document in measured:
            good = keeping_ap(document["rows"])
            by_format = [[row for row in good if row["format"] == name] for name in ("onnx", "pytorch")]
            chosen = [best(each) for each in (good, *by_format)]
            rows.append((kind, *chosen, f"{document['machine']['cpu']}, {document['machine']['date']}"))
        if not measured:
            rows.append((kind, "not measured", "", "", f"`{COMMAND}` measures yours"))
    head = ("your CPU has", "the fastest that keeps its AP", "in onnxruntime", "best.pt", "measured on")
    return markdown_table(head, rows)


def keeping_ap(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with times whose AP is at most LARGEST_LOSS below that of PyTorch in float32."""
    timed = [row for row in rows if "CPU ms" in row and "ours / this" not in row]
    (exact,) = [row["AP"] for row in timed if (row["format"], row["precision"]) == ("pytorch", "float32")]
    return [row for row in timed if exact - row["AP"] <= LARGEST_LOSS]


def best(rows: Sequence[Row]) -> str:
    """Write the fastest of some rows."""
    if not rows:
        return ""
    row = min(rows, key=lambda row: row["CPU ms"])
    return f"`{row['format']}`, {row['precision']}: {number(row['CPU ms'])} ms (AP {number(row['AP'])})"


def number(value: float) -> str:
    """Write three digits and no needless zeros: .365, 7.4, 25, 33.2."""
    text = f"{value:#.3g}" if value < 100 else f"{value:.0f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).removeprefix("0") or "0"


def tables() -> str:
    """Write for each machine what it is, and a table of everything that was measured there."""
    return "\n\n".join(part for document in documents() for part in machine_parts(document))


def machine_parts(document: Document) -> Iterable[str]:
    """Yield a heading, a paragraph on the machine, its table, and the one beside ultralytics where there is one."""
    machine, rows = document["machine"], document["rows"]
    features = " ".join(name for name in SHOWN_FEATURES if name in machine["features"]) or "none of these extensions"
    yield f"### {machine['cpu']}: {kind_of(document)}"
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield (
        f"{machine['date']}, {features}. CPU time of one photo of {document['imgsz']} px, one thread; AP of "
        f"{document['weights']} on {document['data']}, {document['split']} split. "
        f"The load of the machine was {machine['load']:.1f}."
    )
    yield f"Versions: {packages}."
    ours = [row for row in rows if "ours / this" not in row]
    yield markdown_table(("format", "precision", "ms", "from .. to", "AP", "MiB", ""), [cells(row) for row in ours])
    theirs = [row for row in rows if "ours / this" in row]
    if theirs:
        yield "The same runtimes with what ultralytics exports of its own yolov3-tiny.yaml, in turns with ours:"
        head = ("file", "precision", "theirs, ms", "MiB", "ours takes, of that")
        beside = [
            (row["format"], row["precision"], number(row["CPU ms"]), number(row["MiB"]), number(row["ours / this"]))
            for row in theirs
        ]
        yield markdown_table(head, beside)


def cells(row: Row) -> tuple[str, ...]:
    """Write a row of a machine's table."""
    spread = f"{number(row['lowest'])} .. {number(row['highest'])}" if "CPU ms" in row else ""
    median, ap, size = (number(row[key]) if key in row else "" for key in ("CPU ms", "AP", "MiB"))
    return f"`{row['format']}`", row["precision"], median, spread, ap, size, row.get("note", "")
