#!/bin/sh
# OpenCV 4.14.0.94 and TIFF files whose orientation turns them by 90 degrees (5 to 8), such as Pillow writes them:
# imread gives None, with an internal error on stderr. imdecode reads the same bytes upright, but its reduced images
# (IMREAD_REDUCED_COLOR_2, _4, _8) have the sides of the picture that is not turned, into which the upright one is squeezed:
# of a file of 80x48 the whole image is 48x80, and its half 40x24. Files without a turn, and JPEG files, are read right.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    opencv-python==4.14.0.94 numpy==2.4.6 pillow==13.0.0
cat > "$folder/show.py" <<'PYTHON'
import sys

import cv2
import numpy as np
from PIL import Image

print(f"opencv {cv2.__version__}")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
y, x = np.mgrid[:48, :80]
picture = Image.fromarray(np.stack([x * 3, y * 5, x + y], 2).astype(np.uint8))
unread, squeezed = [], []
for suffix in ("tif", "jpg"):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = f"{sys.argv[1]}/{orientation}.{suffix}"
        picture.save(file, exif=exif)
        data = np.fromfile(file, np.uint8)
        whole, half = (cv2.imdecode(data, flag) for flag in (cv2.IMREAD_COLOR, cv2.IMREAD_REDUCED_COLOR_2))
        sides = [f"{image.shape[1]}x{image.shape[0]}" for image in (whole, half)]
        read = cv2.imread(file) is not None
        print(f"{suffix} {orientation}: imread {'reads it' if read else 'gives None'}, imdecode {sides[0]}, its half {sides[1]}")
        if not read:
            unread.append(f"{suffix} {orientation}")
        if half.shape != (whole.shape[0] // 2, whole.shape[1] // 2, 3):
            same = cv2.resize(whole, half.shape[1::-1], interpolation=cv2.INTER_AREA)
            squeezed.append(f"{suffix} {orientation}" if np.abs(half.astype(int) - same).mean() < 8 else "another picture")
expected = ["tif 5", "tif 6", "tif 7", "tif 8"]
print("as described" if unread == squeezed == expected else f"changed: not read {unread}, squeezed {squeezed}")
sys.exit(not unread == squeezed == expected)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
