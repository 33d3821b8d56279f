"""Seconds that the data set's doctor takes for 118,000 generated photos and label files, cold and from its cache.

python -m benchmarks.doctor [photos]
"""

import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring.side_by_side import positive_int
from data.data_yaml import read_data_yaml
from data.labels.doctor import Settings, examine
from utils.config.flags import Parser
from utils.errors import run_command

PER_PHOTO = 7


def generate(root: Path, count: int) -> Path:
    """Return a data set of small photos, each of its own content, with seven labels each."""
    random = np.random.default_rng(0)
    encoded = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (32, 48, 3), np.uint8)).save(encoded, "JPEG")
    for split, number in (("train", count * 24 // 25), ("val", count - count * 24 // 25)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for row in range(number):
            values = random.uniform(0.2, 0.8, (PER_PHOTO, 4)) * [1, 1, 0.4, 0.4]
            labels = random.integers(0, 80, PER_PHOTO)
            text = "".join(
                f"{k} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for k, (x, y, w, h) in zip(labels, values, strict=True)
            )
            (root / "labels" / split / f"{row:012d}.txt").write_text(text)
            content = encoded.getvalue() + f"{split} {row}".encode() + bytes(int(random.integers(0, 20_000)))
            (root / "images" / split / f"{row:012d}.jpg").write_bytes(content)
    names = [f"class {number}" for number in range(80)]
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return root / "data.yaml"


def main() -> None:
    """Print both times."""
    parser = Parser(prog="python -m benchmarks.doctor", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", nargs="?", type=positive_int, default=118_000, help="how many (default 118000)")
    count = parser.parse_args().photos
    with tempfile.TemporaryDirectory() as folder:
        path = generate(Path(folder) / "set", count)
        settings = Settings((640, 640), ((30.0, 60.0),), 4.0)
        for name in ("cold", "warm"):
            start, cpu = time.perf_counter(), time.process_time()
            checkup = examine(read_data_yaml(str(path), Path(folder)), settings, Path(folder) / "cache")
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            shown = f"{seconds:.1f} s ({cpu:.1f} s of CPU) for {count:,} photos"
            print(f"{name}: {shown}; findings: {dict(checkup.counts()) or 'none'}", flush=True)


if __name__ == "__main__":
    run_command(main)
