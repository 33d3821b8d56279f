"""Stands for train.py: counts epochs instead of training, goes on from last.pt, and leaves a diary of what it did."""

import json
import sys
import time
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file that nobody sees half-written, as train.py does."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)


def main(folder: Path, seed: int, epochs: int, seconds: float) -> int:
    """Writes what a run leaves; exit code 1 for a negative seed."""
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    last = folder / "weights" / "last.pt"
    state = json.loads(last.read_text()) if last.is_file() else {"epoch": 0, "value": 0.0}
    with (folder / "diary.txt").open("a") as diary:
        diary.write(f"start {state['epoch']}\n")
        diary.flush()
        rows = (folder / "results.csv").read_text().splitlines()[: state["epoch"] + 1] if state["epoch"] else []
        rows = rows or ["epoch,seconds,ap"]
        while state["epoch"] < epochs:
            time.sleep(seconds)
            # So that a test can say when the third epoch begins.
            while state["epoch"] == 2 and (folder.parents[1] / "hold").exists():
                time.sleep(0.05)
            state = {"epoch": state["epoch"] + 1, "value": (state["value"] + abs(seed) + 1) / 2}
            rows.append(f"{state['epoch']},{seconds * state['epoch']},{state['value']}")
            write_whole(folder / "results.csv", "\n".join(rows) + "\n")
            write_whole(last, json.dumps(state))
            diary.write(f"epoch {state['epoch']}\n")
            diary.flush()
        if seed < 0:
            return 1
        write_whole(folder / "metrics.json", json.dumps({"ap": state["value"], "protocol": "split val"}))
        diary.write("finish\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
