"""Trains an Ultralytics detector with this project's box loss and assigner, and measures it as val.py measures ours.

python -m studies.in_ultralytics --data neu-det/data.yaml --imgsz 224 --epochs 20 --loss sca --assign ggiou
python -m studies.in_ultralytics --resume runs/ultralytics/exp
python -m studies.in_ultralytics --score runs/ultralytics/exp --split test

The training is Ultralytics' own, by the plug-in, from a model YAML (yolo26n.yaml). The run folder has the files that
`python -m studies.compare` reads of train.py's: a recipe with `trainer: ultralytics` compares such runs.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.open.any_layout import root_for
from engine.parent_process import end_with_parent
from engine.settings.configure import open_data
from utils.config.flags import Parser, add_knobs, parsed
from utils.config.knobs import Config, Hyperparameters, ModelConfig, PluginConfig, RunConfig
from utils.errors import UserError, printable, run_command

if TYPE_CHECKING:
    from data.data_yaml import DataSpec

ASKED = "plug_in.json"  # what a run was asked for
THEIRS = "ultralytics.csv"  # results.csv as Ultralytics writes it
WRITTEN = ("weights", "data.yaml", "args.yaml", "results.csv", "env.json", "metrics.json", THEIRS)
# Its columns, which Ultralytics pads with spaces, and what they are called here.
COLUMNS = {
    "epoch": "epoch",
    "time": "seconds",
    "train/box_loss": "box_loss",
    "train/cls_loss": "class_loss",
    "metrics/mAP50-95(B)": "ap",
    "metrics/mAP50(B)": "ap50",
}
STRIDE, ENDED = 32, -1
SUFFIXES = (".yaml", ".yml")  # of model YAMLs


def flags(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the flags that are given; UserError for a wrong one."""
    parser = Parser(prog="python -m studies.in_ultralytics", description=(__doc__ or "").splitlines()[0])
    add_knobs(parser, PluginConfig, {})
    return vars(parser.parse_args(arguments))


def parse_flags(arguments: Sequence[str] | None = None) -> PluginConfig:
    """Read the command's flags; UserError for a wrong one, and for one that would have no effect."""
    given = flags(arguments)
    config: PluginConfig = parsed(PluginConfig, given)
    others = [name for name in ("resume", "score") if getattr(config, name)]
    kept = {"resume": {"resume"}, "score": {"score", "split", "device"}}
    for name in others:
        for other in given.keys() - kept[name]:
            raise UserError(
                f"--{other.replace('_', '-')} has no effect with --{name}: its folder says what was asked for"
            )
    if not others and "split" in given:
        raise UserError("--split has no effect without --score")
    return config


def plan(config: PluginConfig) -> "DataSpec":
    """Check what torch is not needed for, and return the data set; UserError for a mistake."""
    if not config.data:
        raise UserError("--data: expected a data YAML, a folder, a .zip or a COCO JSON")
    if not config.model.endswith(SUFFIXES):
        raise UserError(f"--model {printable(config.model)}: expected a model YAML, such as yolo26n.yaml")
    if config.imgsz % STRIDE:
        raise UserError(f"--imgsz {config.imgsz}: expected a multiple of {STRIDE}")
    spec = open_data(config.data, root_for(config.data, config.data_root))
    if spec.labels_dir:
        raise UserError(f"{printable(spec.shown)}: labels_dir: Ultralytics looks in labels/, beside images/, alone")
    return spec


def train(config: PluginConfig) -> Path:
    """Train from the start, measure the best weights on the validation split, and return the run folder."""
    from utils.device import choose_device
    from utils.run_folder import new_run_folder, write_atomically, write_env, write_json

    spec = plan(config)
    folder = new_run_folder(Path(config.project), config.name, config.exist_ok).absolute()
    require_own(folder)
    write_json(folder / ASKED, asdict(config))
    write_env(folder / "env.json", sys.argv, {})
    # Its own YAML, with absolute paths: Ultralytics looks for relative ones in a folder of its settings.
    splits = {split: [str(each) for each in places] for split, places in spec.splits.items()}
    data = {"path": str(spec.root), **splits, "names": dict(enumerate(spec.names))}
    write_atomically(folder / "data.yaml", json.dumps(data))
    model = ready(config.model, config)
    model.train(
        data=str(folder / "data.yaml"),
        epochs=config.epochs,
        batch=config.batch_size,
        imgsz=config.imgsz,
        device=str(choose_device(config.device)),
        workers=config.workers,
        cache="ram" if config.cache else False,
        seed=config.seed,
        project=str(folder.parent),
        name=folder.name,
        exist_ok=True,
        plots=False,
        verbose=False,
    )
    return finish(folder)


def require_own(folder: Path) -> None:
    """Raise UserError where a folder is no run of this command, and a file there would be replaced."""
    foreign = next((name for name in WRITTEN if os.path.lexists(folder / name)), None)
    if foreign and not (folder / ASKED).is_file():
        raise UserError(
            f"--exist-ok: {printable(folder)} is no run of studies.in_ultralytics, and its {foreign} would be "
            "replaced; expected another --name or --project"
        )


def resume(folder: Path) -> Path:
    """Go on with an interrupted training; UserError where there is nothing to go on with."""
    last = folder / "weights" / "last.pt"
    if not (folder / ASKED).is_file() or not last.is_file():
        raise UserError(f"{printable(folder)}: expected {ASKED} and weights/last.pt of an interrupted run")
    model = ready(str(last), asked_for(folder))
    # At the end Ultralytics takes the optimiser out of its checkpoints, and the number of the epoch.
    if model.ckpt["epoch"] != ENDED:
        # Its checkpoint names the folders that it began in, which may have been moved or copied since.
        here = folder.absolute()
        model.train(resume=True, data=str(here / "data.yaml"), save_dir=str(here))
    return finish(folder)


def ready(weights: str, config: PluginConfig) -> Any:
    """Open a model of Ultralytics, with the plug-in in it where something is asked of that."""
    from utils.checkpoint import DAMAGED
    from utils.ultralytics_only import benchmark_peer, inference_peer

    benchmark_peer().without_amp_check()  # which would look for weights to try mixed precision with
    try:
        model = inference_peer().YOLO(weights, task="detect")
    except FileNotFoundError:
        raise UserError(f"--model {printable(weights)}: Ultralytics has no model YAML of this name") from None
    except DAMAGED as error:  # it writes over its checkpoints, and may be killed at that
        kind = "model YAML" if weights.endswith(SUFFIXES) else "checkpoint"
        raise UserError(f"{printable(weights)}: cannot be read as a {kind} ({printable(error, 120)})") from None
    if not (config.loss or config.assign):
        return model
    from alignyolo.ultralytics import use

    return use(model, config.loss or None, config.assign or None)


def finish(folder: Path) -> Path:
    """Write results.csv with the columns of train.py's, and measure the best weights on the validation split."""
    from utils.run_folder import read_csv, write_atomically, write_csv

    table, theirs = folder / "results.csv", folder / THEIRS
    # Its file was once moved away before ours was written, and a run may have been interrupted in between.
    source = table if table.is_file() or not theirs.is_file() else theirs
    rows = [{key.strip(): cell.strip() for key, cell in row.items()} for row in read_csv(source)]
    if rows and "time" in rows[0]:
        if source == table:
            write_atomically(theirs, table.read_text("utf-8"))
        write_csv(table, [{ours: row[name] for name, ours in COLUMNS.items()} for row in without_breaks(rows)])
    score(folder, PluginConfig(score=str(folder)))
    return folder


def without_breaks(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return a row for each epoch of an interrupted training, as if it had not been interrupted.

    Where it went on, Ultralytics counts `time` from 0 again, and has a second row of an epoch that it trained again.
    As in train.py's table, what an interruption lost is not counted.
    """
    kept: list[dict[str, str]] = []
    start = last = 0.0
    for row in rows:
        epoch, time = int(row["epoch"]), float(row["time"])
        while kept and int(kept[-1]["epoch"]) >= epoch:
            kept.pop()
            last = math.inf
        if time < last:
            start = float(kept[-1]["time"]) if kept else 0.0
        last = time
        kept.append({**row, "time": f"{start + time:.6g}"} if start else row)
    return kept


def asked_for(folder: Path) -> PluginConfig:
    """Return the settings of a run; UserError where the folder holds none."""
    path = folder / ASKED
    try:
        return PluginConfig(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{printable(path)}: cannot be read as a run's settings ({printable(error)})") from None


def score(folder: Path, wanted: PluginConfig) -> None:
    """Measure a run's best weights on a split as val.py does: into its folder, other splits than val into one below."""
    from studies.comparison.score_ultralytics import measure
    from utils.device import choose_device

    given = asked_for(folder)
    best = folder / "weights" / "best.pt"
    if not best.is_file():
        raise UserError(f"{printable(best)}: no such file: expected a finished training")
    run = RunConfig(imgsz=(given.imgsz,), batch_size=given.batch_size, seed=given.seed)
    spec = plan(given)
    config = Config(run, ModelConfig(), Hyperparameters(), spec.names)
    into = folder if wanted.split == "val" else folder / wanted.split
    into.mkdir(exist_ok=True)
    device = choose_device(wanted.device or given.device)
    print(measure(ready(str(best), PluginConfig()).model, spec, wanted.split, config, device, into).table())


def main() -> int:
    """Run the command: exit code 0 when done, 2 for wrong input."""
    config = parse_flags()
    over = end_with_parent()  # where a comparison has started it
    try:
        if config.score:
            score(Path(config.score), config)
        else:
            print(f"written to {printable(resume(Path(config.resume)) if config.resume else train(config))}")
    finally:
        over.set()
    return 0


if __name__ == "__main__":
    run_command(main)
