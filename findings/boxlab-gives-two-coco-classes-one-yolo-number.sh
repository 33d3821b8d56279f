#!/bin/sh
# boxlab 0.1.4, from COCO to YOLO: a row's class is the category's id less 1, but an id of 0 stays 0, while data.yaml numbers
# the names by their place in the order of ids. By COCO's format an id is any number, no more. So:
# - where the ids begin at 0, which many tools write, the first two classes become one, every later class has the name of
#   its neighbour, and the last name is never used;
# - where they have gaps, as COCO's own (1 to 90 for 80 names), the numbers run past nc. Its text says "Category IDs in label
#   files are 0-indexed (YOLO convention)"; ids without gaps that begin at 1 come out right.
# Seen, of cat 0, dog 1 and cow 2: rows 0, 0 and 1, so that the dog is a cat and the cow a dog; of person 1, cat 17 and
# toothbrush 90: rows 0, 16 and 89, with nc 3.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# boxlab without what only its pages need.
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    matplotlib==3.11.2 numpy==2.4.6 pillow==13.0.0 pyyaml==6.0.4 2> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    boxlab==0.1.4 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import boxlab.dataset.plugins.coco  # each of the two adds its format to those that are known
import boxlab.dataset.plugins.yolo  # noqa: F401
import yaml
from boxlab.dataset.io import export_dataset, load_dataset
from PIL import Image


def converted(folder, names):
    """Return the rows' classes and the names by number of one photo with an object of each class, in order."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (100, 100)).save(folder / "images" / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "annotations": [
            {"id": place, "image_id": 1, "category_id": number, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
            for place, number in enumerate(names, 1)
        ],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    export_dataset(load_dataset(folder / "coco.json", format="coco"), folder / "yolo", format="yolo")
    rows = next((folder / "yolo" / "labels").rglob("*.txt")).read_text().splitlines()
    return [int(row.split()[0]) for row in rows], yaml.safe_load((folder / "yolo" / "data.yaml").read_text())["names"]


root = Path(sys.argv[1])
cases = {
    "from 1": {1: "cat", 2: "dog", 3: "cow"},
    "from 0": {0: "cat", 1: "dog", 2: "cow"},
    "with gaps": {1: "person", 17: "cat", 90: "toothbrush"},
}
seen = {}
for number, (name, names) in enumerate(cases.items()):
    classes, listed = converted(root / str(number), names)
    seen[name] = classes
    print(f"ids {name}: {list(names.values())} become {classes}, which are {[listed.get(each) for each in classes]}")
expected = {"from 1": [0, 1, 2], "from 0": [0, 0, 1], "with gaps": [0, 16, 89]}
sys.exit(0 if seen == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
