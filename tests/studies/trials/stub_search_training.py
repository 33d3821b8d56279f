"""Stands for train.py in a search: AP by a formula of lr0 instead of training, four epochs, resumed from last.pt."""

import json
import math
import sys
import time
from pathlib import Path

EPOCHS = 4


def write_whole(path: Path, text: str) -> None:
    """Writes a file that nobody sees half-written, as train.py does."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)


def main(folder: Path, settings: dict, seconds: float) -> int:
    """Writes what a run leaves; AP of epoch E is E / 4 of 1 - (log10 lr0 + 2)^2 / 10."""
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    last = folder / "weights" / "last.pt"
    done = int(last.read_text()) if last.is_file() else 0
    best = 1 - (math.log10(settings.get("lr0", 0.01)) + 2) ** 2 / 10
    with (folder / "diary.txt").open("a") as diary:
        diary.write(f"start {done}\n")
        diary.flush()
        for epoch in range(done + 1, EPOCHS + 1):
            time.sleep(seconds)
            rows = [f"{number},{10 * number},{best * number / EPOCHS}" for number in range(1, epoch + 1)]
            write_whole(folder / "results.csv", "\n".join(["epoch,seconds,ap", *rows]) + "\n")
            write_whole(last, str(epoch))
            diary.write(f"epoch {epoch}\n")
            diary.flush()
        time.sleep(seconds)  # as the validation at a run's end
        # Measures at the end alone, and one of which the validation split has no objects.
        others = {"ap_ratio_from_4": best, "ap_small": None}
        write_whole(folder / "metrics.json", json.dumps({"ap": best, **others, "protocol": "split val"}))
        diary.write("finish\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])))
