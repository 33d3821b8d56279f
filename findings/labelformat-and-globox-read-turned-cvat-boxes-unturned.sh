#!/bin/sh
# labelformat 0.1.17 and globox 2.9.0: in CVAT's XML a box may be turned, <box xtl ytl xbr ybr rotation="90" ...>, by degrees
# about its centre (CVAT draws such boxes with its rectangle tool; the corners are those before the turn). Both packages read
# CVAT's XML and leave `rotation` out without a word, so that the box stands where no object is: a long object that lies across
# gets a box that stands upright. YOLO, COCO and VOC hold no turned boxes, but the box around the turned one is known.
# Seen, of a box of 80 x 20 about (100, 50), turned by 90 degrees: it covers 90..110 across and 10..90 down; both packages
# give 60..140 across and 40..60 down, whose IoU with that is 1/7: labelformat in the COCO file that it writes, globox as read.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    labelformat==0.1.17 globox==2.9.0 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/cvat.xml" <<'XML'
<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels><label><name>plank</name></label></labels></task></meta>
  <image id="0" name="a.jpg" width="200" height="100">
    <box label="plank" source="manual" occluded="0" xtl="60.0" ytl="40.0" xbr="140.0" ybr="60.0" rotation="90.0"></box>
  </image>
</annotations>
XML
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from globox import AnnotationSet
from labelformat.formats import COCOObjectDetectionOutput, CVATObjectDetectionInput

root = Path(sys.argv[1])
COCOObjectDetectionOutput(output_file=root / "coco.json").save(CVATObjectDetectionInput(input_file=root / "cvat.xml"))
left, top, width, height = json.loads((root / "coco.json").read_text())["annotations"][0]["bbox"]
by_labelformat = [left, top, left + width, top + height]
(annotation,) = AnnotationSet.from_cvat(root / "cvat.xml")
(box,) = annotation.boxes
by_globox = [box.xmin, box.ymin, box.xmax, box.ymax]
right = [90.0, 10.0, 110.0, 90.0]
for name, sides in (("labelformat", by_labelformat), ("globox", by_globox)):
    inner = max(0, min(sides[2], 110) - max(sides[0], 90)) * max(0, min(sides[3], 90) - max(sides[1], 10))
    print(f"{name}: {sides}, should be {right}; IoU {inner / (2 * 1600 - inner):.3f}")
sys.exit(0 if by_labelformat == by_globox == [60.0, 40.0, 140.0, 60.0] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
