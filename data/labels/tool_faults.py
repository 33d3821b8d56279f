"""What labelling tools get wrong themselves: known by what an export says about its tool, told by converter and doctor.

Each was seen in the tool's own output; tests/data/formats/test_interop.py reads those.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.regular_file import require_regular

LARGEST = 2**26
# By tool and format.
FAULTS = {
    "supervision VOC": "supervision writes VOC's edges as whole pixels: they may be half a pixel off",
    "Label Studio VOC": "Label Studio cuts VOC's edges to whole pixels, by way of percent: they may be 2 pixels off",
    "Label Studio COCO": "Label Studio turns boxes in percent for COCO: turned ones are wrong on photos that are not "
    "square (its JSON is right)",
    "Label Studio YOLO": "Label Studio writes turned boxes to YOLO as if they were not turned (its JSON is right)",
}


def tool_faults(folder: Path) -> list[str]:
    """List what is known to be wrong in a data set: by Label Studio's notes.json, or the report of a conversion."""
    notes, report = _json(folder / "notes.json"), _json(folder / "report.json")
    found = ["Label Studio YOLO"] if _contributor(notes) == "Label Studio" else []
    reasons = {_get(entry, "reason") for entry in _list(_get(report, "found"))}
    return [FAULTS[name] for name in found] + [text for text in FAULTS.values() if text in reasons]


def _contributor(document: Any) -> Any:
    return _get(_get(document, "info"), "contributor")


def _get(document: Any, key: str) -> Any:
    return document.get(key) if isinstance(document, dict) else None


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _json(path: Path) -> Any:
    """Read a JSON file; nothing where there is none."""
    try:
        return json.loads(require_regular(path).read_bytes()) if path.stat().st_size <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None
