"""CPU latency of our ONNX file beside that of ultralytics' export of its yolov3-tiny.yaml, and NMS beside its NMS.

python -m benchmarks.inference [--imgsz 416] [--turns 40] [--threads 2]

Both files hold random weights, which take as long as trained ones, run in onnxruntime with the same settings, and have
their turns A B A B, so that what else the machine does hits both alike. The heads differ: ultralytics gives the network
of that YAML the anchor-free head of its later models, ours has YOLOv3's. NMS gets the same outputs on both sides.
"""

import argparse
import contextlib
import datetime
import io
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from benchmarks.measuring.exported import onnx_session, peer_file, untrained_weights
from benchmarks.measuring.side_by_side import positive_int
from engine.export.backend import candidates_of_decoded
from engine.export.silent_imports import silent_onnxruntime
from export import export
from models.postprocess import Postprocess
from utils.config.flags import Parser
from utils.errors import run_command
from utils.run_folder import write_json
from utils.ultralytics_only import inference_peer

CLASSES = 80
OURS, PEER = "this project", "ultralytics"


def about(file: Path) -> dict[str, int]:
    """Return convolutions, other nodes, batch normalisations and weights of a graph."""
    graph = onnx.load(file).graph
    kinds = [node.op_type for node in graph.node]
    weights = sum(int(np.prod(value.dims)) for value in graph.initializer)
    convolutions, norms = kinds.count("Conv"), kinds.count("BatchNormalization")
    return {"convolutions": convolutions, "nodes": len(kinds), "batch_norms": norms, "numbers": weights}


def crowded(rows: int, objects: int = 40) -> torch.Tensor:
    """Return a decoded output (1, 4 + C, rows) as of a photo: boxes around some objects score, all others hardly."""
    random = np.random.default_rng(0)
    output = np.zeros((rows, 4 + CLASSES), np.float32)
    output[:, :2] = random.uniform(0, 416, (rows, 2))
    output[:, 2:4] = np.exp(random.uniform(2, 5.5, (rows, 2)))
    output[:, 4:] = random.beta(0.05, 40, (rows, CLASSES))
    sure = random.permutation(rows)[: objects * 12]
    centers = output[sure[:objects], :4].repeat(12, axis=0)[: len(sure)]
    output[sure, :4] = centers * random.uniform(0.9, 1.1, (len(sure), 4))
    output[sure, 4 + np.arange(len(sure)) // 12 % CLASSES] = random.uniform(0.1, 0.95, len(sure))
    return torch.from_numpy(output).T[None].contiguous()


def nms_sides(output: torch.Tensor, confidence: float, multi_label: bool) -> dict[str, Callable[[], int]]:
    """Return a function for each side that turns a decoded output into detections and counts them."""
    # Room for every candidate, as the peer has it: fewer would be less work.
    postprocess = Postprocess(confidence, 0.45, 300, top_k=30_000, multi_label=multi_label)
    theirs = inference_peer().non_max_suppression

    def ours() -> int:
        boxes, scores = candidates_of_decoded(output)
        return len(postprocess.select(boxes[0], scores[0])["scores"])

    def peer() -> int:
        return len(theirs(output, confidence, 0.45, multi_label=multi_label, max_det=300)[0])

    return {OURS: ours, PEER: peer}


def in_turns(sides: Mapping[str, Callable[[], object]], turns: int, each: int) -> dict[str, list[float]]:
    """Return milliseconds of every call, `each` of one side, then of the other, `turns` times.

    The first turn warms up.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, call in sides.items():
            for _ in range(each):
                start = time.perf_counter()
                call()
                if turn:
                    found[name].append((time.perf_counter() - start) * 1e3)
    return found


def row(what: str, found: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Return medians, the middle half of both sides' times, and the ratio of the medians; printed."""
    result: dict[str, object] = {"what": what}
    for name, values in found.items():
        low, median, high = statistics.quantiles(values, n=4)
        result[name] = {"median_ms": median, "quarter_ms": low, "three_quarters_ms": high, "fastest_ms": min(values)}
        print(f"{what:<34} {name:<13} median {median:8.3f} ms  ({low:.3f} to {high:.3f}, fastest {min(values):.3f})")
    result["ratio"] = result[OURS]["median_ms"] / result[PEER]["median_ms"]
    print(f"{what:<34} ours / theirs {result['ratio']:.3f}", flush=True)
    return result


def measure(settings: argparse.Namespace, folder: Path) -> tuple[list[dict], dict[str, dict]]:
    """Return all rows, and what the two files are."""
    size = settings.imgsz
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about the peer's code
        ours = export(weights=str(untrained_weights(folder, size, CLASSES)), imgsz=[size])[0]
        files = {OURS: ours, PEER: peer_file(folder, size, CLASSES)}
    graphs = {name: about(file) for name, file in files.items()}
    for name, facts in graphs.items():
        print(f"{name:<13} {', '.join(f'{value:,} {key}' for key, value in facts.items())}", flush=True)
    image = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    runs = {name: onnx_session(file, settings.threads) for name, file in files.items()}
    calls = {name: (lambda run=run: run(image)) for name, run in runs.items()}
    rows = [row(f"ONNX, {size} px, batch 1", in_turns(calls, settings.turns, 5))]
    output = crowded(25_200)
    torch.set_num_threads(1)  # NMS is many small operations, which threads only hold up
    for confidence, multi_label in ((0.25, False), (0.001, True)):
        sides = nms_sides(output, confidence, multi_label)
        counts = {name: side() for name, side in sides.items()}
        what = f"NMS, 25,200 boxes, conf {confidence:g}"
        print(f"{what}: " + ", ".join(f"{count} detections by {name}" for name, count in counts.items()))
        rows.append(row(what, in_turns(sides, max(settings.turns // 4, 2), 3)))
    return rows, graphs


def main() -> None:
    """Print the rows and write them as JSON."""
    parser = Parser(prog="python -m benchmarks.inference", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--imgsz", type=positive_int, default=416, help="network input in pixels (default 416)")
    parser.add_argument("--turns", type=positive_int, default=40, help="turns of each side, of 5 images (default 40)")
    parser.add_argument("--threads", type=positive_int, default=2, help="threads of both sides (default 2)")
    parser.add_argument("--out", default="runs/benchmarks", help="folder of inference.json")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, graphs = measure(settings, Path(folder))
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}
    versions = {"torch": torch.__version__, "onnxruntime": silent_onnxruntime().__version__}
    path = Path(settings.out) / "inference.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"date": datetime.date.today().isoformat(), "machine": machine | versions, "threads": settings.threads}
    write_json(path, {**document, "graphs": graphs, "rows": rows})
    print(f"written to {path}")


if __name__ == "__main__":
    run_command(main)
