"""This package's losses and assigners inside ultralytics' detectors: YOLO11, YOLO12, YOLO26, with or without NMS.

    from ultralytics import YOLO
    from alignyolo.ultralytics import use

    model = use(YOLO("yolo11n.yaml"), loss="sca", assign="ggiou")
    model.train(data="my.yaml", epochs=100)

`python -m alignyolo.ultralytics model=yolo11n.yaml data=my.yaml loss=sca assign=ggiou` does the same from a shell. What
is not asked for stays ultralytics' own. The choices travel in the run's arguments: into processes on other GPUs, into
the checkpoint, and into a resumed run, `use(YOLO("last.pt")).train(resume=True)`. Checkpoints hold none of this
package's classes and load in plain ultralytics. It is imported by who asks for it alone, and needs ultralytics.
"""

import inspect
import sys
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from ultralytics import YOLO, __version__
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel, torch_safe_load
from ultralytics.utils import DEFAULT_CFG, IterableSimpleNamespace
from ultralytics.utils.loss import v8DetectionLoss

from alignyolo.anchors import DenseAnchors
from alignyolo.assign.assignment import Context, Predictions
from alignyolo.assign.metric import plain_iou
from alignyolo.registry import DYNAMIC_ASSIGNERS, SIMILARITIES
from alignyolo.similarities.bound import Similarity
from alignyolo.targets import Targets

LOSS, ASSIGN, STATE = "align_loss", "align_assign", "align_state"
# A head without anchors has its predictions alone: there GGIoU is what aligns.
ASSIGN_NAMES = {**{name: name for name in DYNAMIC_ASSIGNERS}, "ggiou": "tal_ggiou"}
EXPECTED = "expected a YOLO of ultralytics for detection (YOLO11, YOLO12, YOLO26), or its DetectionModel"
ANCHOR_SIDE = 5.0  # strides: ATSS's anchors on heads that have none, as in YOLOv6


def use(model: Any, loss: str | None = None, assign: str | None = None) -> Any:
    """Make a YOLO, or a DetectionModel, train with a box loss and an assigner, and return it.

    A second `use` replaces both choices of the first, also where None is given now. A copy of a YOLO has its choices.

    Args:
        model: YOLO11, YOLO12 or YOLO26 of ultralytics, for detection; it is changed in place.
        loss: Any name of `--loss`; None leaves ultralytics' own.
        assign: `atss`, `atss_ggiou`, `simota`, `tal`, or `tal_ggiou`, which `ggiou` means too; None: unchanged.

    Returns:
        The same model.

    Raises:
        ValueError: A name is unknown, the model is for another task than detection, or its loss cannot be trained by
            several processes with the installed ultralytics.
        TypeError: It is no YOLO and no DetectionModel.
    """
    check(loss, assign)
    detector = detector_of(model)
    if isinstance(model, YOLO):
        model.train, model.tune = Train(model, loss, assign), Tune(model, loss, assign)
    else:
        apply(detector, loss, assign)
    return model


def detector_of(model: Any) -> Any:
    """Return the DetectionModel in a YOLO or in a wrapper of torch's, or itself; raise where it is none."""
    found = model.model if isinstance(model, YOLO) else model
    for wrapper in ("module", "_orig_mod"):
        found = getattr(found, wrapper, found)
    # The nearest of ultralytics' own kinds: those of other tasks are DetectionModels too.
    kinds = [kind for kind in type(found).__mro__ if kind.__module__ == DetectionModel.__module__]
    if kinds[:1] == [DetectionModel]:
        return found
    if isinstance(model, YOLO) and isinstance(model.task, str) and model.task != "detect":
        raise ValueError(f"{type(found).__name__}, of the task {model.task!r}: {EXPECTED}")
    inside = f" of {type(found).__name__}" if found is not model else ""
    raise TypeError(f"{type(model).__name__}{inside}: {EXPECTED}")


class Chosen:
    """Stand in for a method of a YOLO, with the choices of `use`; the copy of a YOLO has its own."""

    def __init__(self, model: Any, loss: str | None, assign: str | None) -> None:
        self.model = model
        self.settings = {name: value for name, value in ((LOSS, loss), (ASSIGN, assign)) if value}


class Train(Chosen):
    """Train as a YOLO does, with this package's trainer and the choices among its arguments."""

    def __call__(self, trainer: Any = None, **settings: Any) -> Any:
        """Train; settings of `align_loss` and `align_assign` go before the choices of `use`."""
        return type(self.model).train(self.model, trainer or AlignTrainer, **{**self.settings, **settings})


class Tune(Chosen):
    """Tune as a YOLO does where that trains with the choices, and refuse where it does not."""

    def __call__(self, use_ray: bool = False, *rest: Any, **settings: Any) -> Any:
        """Tune; ValueError where ultralytics would start each trial without the choices."""
        if self.settings and not use_ray:
            raise ValueError(
                "tune: ultralytics trains each trial from its own command line, which knows no loss or assigner of "
                "this package; tune without `use`, or train once for each setting"
            )
        return type(self.model).tune(self.model, use_ray, *rest, **settings)


def check(loss: str | None, assign: str | None) -> None:
    """Raise ValueError for a name that is not one of a loss, or of an assigner."""
    for name, names, what in ((loss, SIMILARITIES, "loss"), (assign, ASSIGN_NAMES, "assign")):
        if name is not None and name not in names:
            raise ValueError(f"{what} {name!r}: expected one of {', '.join(names)}")


class UnevenProcesses(ValueError):
    """Some processes of a run would wait for ever for what others never compute."""


def check_processes(loss: str | None, count: int) -> None:
    """Raise UnevenProcesses for a mean over processes where ultralytics leaves the box loss out on some of them.

    8.4.0 and older compute none on a process whose images have no positive; 8.4.190 computes one of zero.
    """
    if loss is None or count < 2 or "over_ranks" not in SIMILARITIES[loss].needs:
        return
    if "fg_mask.sum()" in inspect.getsource(v8DetectionLoss):
        raise UnevenProcesses(
            f"loss {loss!r} on several GPUs: its running mean is over all of them, and ultralytics {__version__} "
            "computes no box loss on one without positives; expected 8.4.190 or newer, one GPU, or another loss"
        )


def apply(model: nn.Module, loss: str | None, assign: str | None) -> None:
    """Give a DetectionModel ultralytics' criterion with other parts, both of an end-to-end head's."""
    detector: Any = model
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    check_processes(loss, torch.distributed.get_world_size() if spread else 1)
    before, detector.criterion = getattr(detector, "criterion", None), stock_criterion(detector)
    # An end-to-end head's weights of its branches move from epoch to epoch; a resumed run has set them already.
    for name in ("updates", "o2m", "o2o"):
        if hasattr(before, name):
            setattr(detector.criterion, name, getattr(before, name))
    for part in parts_of(detector.criterion):
        if loss is not None:
            part.bbox_loss = SimilarityBoxLoss(part.bbox_loss, Similarity(SIMILARITIES[loss]), part.stride.tolist())
        if assign is not None:
            part.assigner = HeadAssigner(part.assigner, assign, part.stride.tolist())


def stock_criterion(detector: Any) -> Any:
    """Build ultralytics' criterion of a DetectionModel, whose settings a trainer need not have set yet.

    Before a training `args` is missing, or in a YOLO's model a dictionary; it stays so.
    """
    given = getattr(detector, "args", None)
    if not (given is None or isinstance(given, dict)):
        return detector.init_criterion()
    detector.args = IterableSimpleNamespace(**{**vars(DEFAULT_CFG), **(given or {})})
    try:
        return detector.init_criterion()
    finally:
        del detector.args
        if given is not None:
            detector.args = given


def parts_of(criterion: Any) -> list[Any]:
    """Return the detection losses of a criterion: one, or those of an end-to-end head's two branches."""
    return [criterion] if hasattr(criterion, "bbox_loss") else [criterion.one2many, criterion.one2one]


class SimilarityBoxLoss(nn.Module):
    """ultralytics' box loss with 1 - similarity in the place of CIoU; its distribution loss stays as it is."""

    def __init__(self, stock: nn.Module, similarity: Similarity, strides: list[float]) -> None:
        super().__init__()
        self.stock, self.similarity, self.strides = stock, similarity, strides

    def forward(self, pred_dist: Tensor, pred: Tensor, points: Tensor, target: Tensor, *rest: Tensor) -> tuple:
        """Compute the box loss, weighted and normalised as ultralytics does, and its distribution loss."""
        scores, scores_sum, chosen = rest[:3]
        _, distribution = self.stock(pred_dist, pred, points, target, *rest)
        # Boxes are in strides; some similarities measure pixels.
        stride = points.new_tensor(self.strides)[(points == 0.5).all(-1).cumsum(0) - 1][:, None]
        first = points[stride[:, 0] == self.strides[0]]
        columns, rows = ((first.amax(0) + 0.5) * self.strides[0]).tolist()
        around = {"image_size": (rows, columns), "over_ranks": over_ranks, "training": torch.is_grad_enabled()}
        value = self.similarity((pred * stride)[chosen], (target * stride)[chosen], **around)
        weight = scores.sum(-1)[chosen]
        return ((1 - value) * weight).sum() / scores_sum, distribution


def over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over the processes of the run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.clone()
        torch.distributed.all_reduce(values)
    return values


class HeadAssigner(nn.Module):
    """One of this package's assigners, asked and answering as ultralytics' TaskAlignedAssigner.

    The branch of a head that works without NMS keeps one anchor a truth: there ATSS and SimOTA, which know no such
    rule, leave the stock assigner in place.
    """

    def __init__(self, stock: nn.Module, assign: str, strides: list[float]) -> None:
        super().__init__()
        name = ASSIGN_NAMES[assign]
        final = getattr(stock, "topk2", stock.topk)
        self.stock, self.strides = stock, strides
        self.aligned = name.startswith("tal")
        self.left_alone = not self.aligned and 1 in (final, stock.topk)
        settings: dict[str, Any] = {}
        if self.aligned:
            settings = {"topk": stock.topk, "alpha": stock.alpha, "beta": stock.beta, "final": final}
            # Before 8.4 ultralytics did not enlarge small truths.
            settings["enlarge"] = "on" if hasattr(stock, "stride") else "off"
        self.assigner = DYNAMIC_ASSIGNERS[name].bind(**settings)

    @torch.no_grad()
    def forward(
        self, scores: Tensor, boxes: Tensor, points: Tensor, labels: Tensor, truths: Tensor, given: Tensor
    ) -> tuple[Tensor, ...]:
        """Assign padded truths (B, N, 4) to points (A, 2) with predicted boxes (B, A, 4) and scores (B, A, C).

        Returns labels (B, A), boxes (B, A, 4), target scores (B, A, C), positives (B, A) and truths' rows (B, A).
        """
        if self.left_alone or truths.shape[1] == 0:
            return self.stock(scores, boxes, points, labels, truths, given)
        image, row = given[..., 0].bool().nonzero(as_tuple=True)
        targets = Targets(truths[image, row].float(), labels[image, row, 0].long(), image)
        predictions = Predictions(boxes.float(), scores.float())
        found = self.assigner(Context(self.anchors(points.float()), targets, len(boxes), predictions))

        owner = torch.zeros(boxes.shape[:2], dtype=torch.long, device=boxes.device)
        owner[found.image, found.anchor] = row[found.target]
        positive = torch.zeros_like(owner, dtype=torch.bool)
        positive[found.image, found.anchor] = True
        quality = found.metric
        if not self.aligned:
            quality = plain_iou(predictions.boxes[found.image, found.anchor], targets.boxes[found.target]).clamp(min=0)
        target_scores = torch.zeros_like(scores)
        target_scores[found.image, found.anchor, targets.labels[found.target]] = quality.to(scores.dtype)
        each = torch.arange(len(boxes), device=boxes.device)[:, None]
        return labels[each, owner, 0].long().clamp(min=0), truths[each, owner], target_scores, positive, owner

    def anchors(self, points: Tensor) -> DenseAnchors:
        """Lay a square of `ANCHOR_SIDE` strides around every point (A, 2), each level's first at half a stride."""
        starts = [int((points == stride / 2).all(-1).nonzero()[0, 0]) for stride in self.strides]
        ends = [*starts[1:], len(points)]
        counts = tuple(end - start for start, end in zip(starts, ends, strict=True))
        half = (
            points.new_tensor(self.strides).repeat_interleave(torch.tensor(counts, device=points.device))
            * ANCHOR_SIDE
            / 2
        )
        width, height = (points[: counts[0]].amax(0) + self.strides[0] / 2).long().tolist()
        boxes = torch.cat([points - half[:, None], points + half[:, None]], dim=-1)
        return DenseAnchors(boxes, counts, (height, width), tuple(self.strides))


class AlignTrainer(DetectionTrainer):
    """ultralytics' trainer with this package's parts, as `align_loss` and `align_assign` among its arguments say."""

    def __init__(self, cfg: Any = DEFAULT_CFG, overrides: dict | None = None, _callbacks: Any = None) -> None:
        overrides = dict(overrides or {})
        chosen = {key: overrides.pop(key) for key in (LOSS, ASSIGN, STATE) if key in overrides}
        check(chosen.get(LOSS), chosen.get(ASSIGN))
        if (task := overrides.get("task") or "detect") != "detect":
            raise ValueError(f"task {task!r}: {EXPECTED}")
        super().__init__(cfg, overrides, _callbacks)
        # Where a version counts them later, each process refuses when it equips its model.
        check_processes(chosen.get(LOSS), getattr(self, "world_size", 1))
        # ultralytics refuses unknown arguments, but keeps, saves and restores those that are there.
        for key, value in chosen.items():
            setattr(self.args, key, value)
        self.add_callback("on_train_start", AlignTrainer.equip)

    def equip(self) -> None:
        """Give the model and its average their criterion, with the running statistics of a resumed run.

        The average, which is validated, measures with the model's statistics.
        """
        chosen = getattr(self.args, LOSS, None), getattr(self.args, ASSIGN, None)
        model: Any = getattr(self.model, "module", self.model)
        apply(model, *chosen)
        parts = parts_of(model.criterion)
        for part, state in zip(parts, getattr(self.args, STATE, None) or [], strict=False):
            part.bbox_loss.similarity.load_state_dict({name: torch.tensor(v) for name, v in state.items()})
        average: Any = self.ema.ema if self.ema else None
        if average is not None:
            apply(average, *chosen)
            for part, own in zip(parts_of(average.criterion), parts, strict=True):
                if isinstance(own.bbox_loss, SimilarityBoxLoss):
                    part.bbox_loss.similarity = own.bbox_loss.similarity

    def get_validator(self) -> Any:
        """Build the validator, which refuses arguments that ultralytics does not know."""
        kept = {key: getattr(self.args, key) for key in (LOSS, ASSIGN, STATE) if hasattr(self.args, key)}
        for key in kept:
            delattr(self.args, key)
        try:
            return super().get_validator()
        finally:
            for key, value in kept.items():
                setattr(self.args, key, value)

    def save_model(self) -> Any:
        """Save a checkpoint that needs none of this package to be read, but says what it was trained with."""
        model: Any = getattr(self.model, "module", self.model)
        criterion = model.criterion
        boxes = [part.bbox_loss for part in parts_of(criterion)]
        states = [each.similarity.state_dict() for each in boxes if isinstance(each, SimilarityBoxLoss)]
        if any(states):
            setattr(self.args, STATE, [{name: float(value) for name, value in state.items()} for state in states])
        average: Any = self.ema.ema
        kept, average.criterion = average.criterion, None
        try:
            return super().save_model()
        finally:
            average.criterion = kept

    def final_eval(self) -> None:
        """Validate the best weights, and keep the choices in the checkpoints, out of which ultralytics strips them."""
        super().final_eval()
        chosen = {key: getattr(self.args, key) for key in (LOSS, ASSIGN) if hasattr(self.args, key)}
        for path in (self.last, self.best):
            if path.exists() and chosen:
                checkpoint, _ = torch_safe_load(path)  # written a moment ago
                checkpoint["train_args"] = {**checkpoint["train_args"], **chosen}
                torch.save(checkpoint, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)


def main(arguments: list[str]) -> None:
    """Train from a shell: ultralytics' own key=value arguments, with `loss` and `assign` beside them."""
    from ultralytics.cfg import parse_key_value_pair

    from alignyolo import ultralytics as here  # not __main__: processes on other GPUs import its trainer by name

    pairs = [each for each in arguments if each not in ("detect", "train")]
    try:
        if wrong := [each for each in pairs if not all(each.partition("="))]:
            raise ValueError(f"{wrong[0]!r}: expected KEY=VALUE, such as model=yolo11n.yaml")
        settings = dict(map(parse_key_value_pair, pairs))
        name, loss, assign = (settings.pop(key, None) for key in ("model", "loss", "assign"))
        if not isinstance(name, str):
            raise ValueError("model=: expected a model to train, such as model=yolo11n.yaml")
        here.check(loss, assign)
    except ValueError as error:
        refuse(error)
    opened = YOLO(name)
    try:
        model = here.use(opened, loss, assign)
    except (ValueError, TypeError) as error:
        refuse(error)
    try:
        model.train(**settings)
    except here.UnevenProcesses as error:
        refuse(error)


def refuse(error: Exception) -> NoReturn:
    """Say a mistake in one line and end with exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
