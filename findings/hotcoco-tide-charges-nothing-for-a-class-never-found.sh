#!/bin/sh
# hotcoco 1.3.0: COCOeval.tide_errors says what AP would gain if all misses were mended ("delta_ap: how much AP improves if
# fixed"; FN: "perfect recall, precision untouched"). It does so by taking the missed objects away; a class of which nothing
# was found has none left then, and keeps its AP of 0. So the worst misses are free, and finding less may cost less.
# Cats all found, of two dogs one found: AP is .752 and misses cost .248, together 1, which is the AP if they were mended.
# Neither dog found: AP is .5, and mending would again bring 1, so that misses cost .5. Seen: 0.0, for Miss and for FN, while
# the count of misses is right. A class without detections is common where classes are many or training is young.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check hotcoco==1.3.0 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import sys

from hotcoco import COCO, COCOeval

CAT, DOG = 1, 2
OBJECTS = [(CAT, [10, 10, 20, 20]), (DOG, [40, 10, 20, 20]), (DOG, [70, 10, 20, 20])]


def errors(found):
    """Return what TIDE says of detections that are the first objects' very boxes."""
    truth = COCO(
        {
            "images": [{"id": 1, "width": 100, "height": 100, "file_name": "a.jpg"}],
            "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
            "annotations": [
                {"id": number, "image_id": 1, "category_id": label, "bbox": box, "area": 400, "iscrowd": 0}
                for number, (label, box) in enumerate(OBJECTS, 1)
            ],
        }
    )
    rows = [{"image_id": 1, "category_id": label, "bbox": box, "score": 0.9} for label, box in OBJECTS[:found]]
    evaluation = COCOeval(truth, truth.load_res(rows), "bbox")
    evaluation.evaluate()
    told = evaluation.tide_errors()
    costs = [round(told["delta_ap"][kind], 3) for kind in ("Miss", "FN")]
    return round(told["ap_base"], 3), *costs, told["counts"]["Miss"]


seen = {"all": errors(3), "all but a dog": errors(2), "no dog": errors(1)}
for name, (average, missed, negatives, count) in seen.items():
    print(f"found {name}: AP {average}, misses cost {missed}, false negatives {negatives}, {count} missed")
expected = {"all": (1.0, 0.0, 0.0, 0), "all but a dog": (0.752, 0.248, 0.248, 1), "no dog": (0.5, 0.0, 0.0, 2)}
sys.exit(0 if seen == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
