"""The plug-in for ultralytics: its YOLOs train with our parts, go on where they stopped, and load without us."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch

import utils.ultralytics_only  # noqa: F401  Offline and silent, before ultralytics is imported below.
from data.shapes.demo_set import make_shapes
from tests.paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A few drawn pictures, which ultralytics reads as they are."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=2, train=8, val=4, size=96)


def settings_of(shapes, folder, **changes):
    own = {"data": str(shapes), "project": str(folder), "name": "run", "exist_ok": True, "plots": False}
    small = {"epochs": 2, "imgsz": 96, "batch": 4, "workers": 0, "device": "cpu", "amp": False, "verbose": False}
    return {**own, **small, **changes}


def criterion_of(cfg, **choices):
    """The parts of a fresh model's criterion with our choices in it."""
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG

    from alignyolo.ultralytics import parts_of, use

    model = DetectionModel(cfg, verbose=False)
    model.args = copy.copy(DEFAULT_CFG)
    return parts_of(use(model, **choices).criterion)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data=my.yaml"], "model=: expected a model to train"),
        (["model=yolo11n.yaml", "data"], "'data': expected KEY=VALUE"),
        (["model=yolo11n.yaml", "loss=scaa"], "loss 'scaa': expected one of iou"),
        (["train", "model=yolo11n.yaml", "assign=best"], "assign 'best': expected one of atss"),
    ],
)
def test_mistakes_in_the_shell_are_one_line_and_exit_code_two(arguments, said, capsys):
    from alignyolo.ultralytics import main

    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {said}") and line.count("\n") == 1


@pytest.mark.parametrize("cfg", ["yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml"])
def test_what_is_not_asked_for_stays(cfg):
    from alignyolo.ultralytics import HeadAssigner, SimilarityBoxLoss

    for part in criterion_of(cfg):
        assert not isinstance(part.bbox_loss, SimilarityBoxLoss)
        assert not isinstance(part.assigner, HeadAssigner)
    for part in criterion_of(cfg, loss="sca"):
        assert isinstance(part.bbox_loss, SimilarityBoxLoss)
        assert not isinstance(part.assigner, HeadAssigner)


def drawn_head(part, seed=1, images=2, truths=9, side=128):
    """What a criterion asks its assigner: points on three levels, predictions around them, padded truths."""
    generator = torch.Generator().manual_seed(seed)
    points, strides = [], []
    for stride in part.stride.tolist():
        cells = (torch.arange(side // int(stride)) + 0.5) * stride
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2))
        strides.append(torch.full((len(points[-1]),), stride))
    points, strides = torch.cat(points), torch.cat(strides)
    half = strides[:, None] * (1 + 3 * torch.rand(images, len(points), 2, generator=generator))
    boxes = torch.cat([points - half, points + half], -1)
    low = torch.rand(images, truths, 2, generator=generator) * 90
    size = 4 + torch.rand(images, truths, 2, generator=generator) * 60
    given = torch.ones(images, truths, 1)
    given[1, 5:] = 0
    labels = torch.randint(80, (images, truths, 1), generator=generator).float()
    scores = torch.rand(images, len(points), 80, generator=generator)
    return scores, boxes, points, labels, torch.cat([low, low + size], -1) * given, given


@pytest.mark.parametrize("cfg", ["yolo11n.yaml", "yolo26n.yaml"])
def test_our_tal_in_the_head_is_ultralytics_own(cfg):
    """Our TAL answers what the stock assigner answers, in both branches of a head without NMS too."""
    for part in criterion_of(cfg, assign="tal"):
        asked = drawn_head(part)
        labels, boxes, scores, positive, owner = part.assigner(*asked)
        stock = part.assigner.stock(*asked)
        assert torch.equal(positive, stock[3])
        assert torch.equal(owner[positive], stock[4][positive])
        assert torch.equal(labels[positive], stock[0][positive].long())
        assert torch.equal(boxes[positive], stock[1][positive])
        torch.testing.assert_close(scores, stock[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("assign", ["ggiou", "atss", "atss_ggiou", "simota", "tal"])
def test_every_assigner_answers_a_head(assign):
    for part in criterion_of("yolo26n.yaml", assign=assign):
        labels, boxes, scores, positive, owner = part.assigner(*drawn_head(part))
        assert positive.any()
        assert (scores.amax(-1) > 0).sum() <= positive.sum()
        assert labels.shape == owner.shape == positive.shape == boxes.shape[:2]


@pytest.mark.parametrize("cfg", ["yolo11n.yaml", "yolo26n.yaml"])
@pytest.mark.parametrize("args", [None, {"box": 15.0}])
def test_a_model_that_no_trainer_has_had_has_a_loss(cfg, args):
    """A DetectionModel has no `args` then, that of a YOLO has a dictionary of them, whose gains count."""
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT

    from alignyolo.ultralytics import parts_of, use

    model = DetectionModel(cfg, verbose=False).train()
    if args is not None:
        model.args = {**DEFAULT_CFG_DICT, **args}
    use(model, "sca", "tal")
    assert getattr(model, "args", None) == (None if args is None else {**DEFAULT_CFG_DICT, **args})
    assert {part.hyp.box for part in parts_of(model.criterion)} == {(args or vars(DEFAULT_CFG))["box"]}
    truths = {"batch_idx": torch.zeros(1), "cls": torch.zeros(1, 1), "bboxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}
    losses, _ = model.loss({"img": torch.rand(2, 3, 64, 64), **truths})
    assert losses.isfinite().all() and losses[0] > 0


def test_an_unknown_name_is_said():
    with pytest.raises(ValueError, match="loss 'scaa': expected one of iou, giou"):
        criterion_of("yolo11n.yaml", loss="scaa")
    with pytest.raises(ValueError, match="assign 'max': expected one of atss"):
        criterion_of("yolo11n.yaml", assign="max")


@pytest.mark.parametrize(("task", "end"), [("pose", "pose"), ("segment", "seg"), ("obb", "obb"), ("classify", "cls")])
def test_other_tasks_are_refused(task, end, capsys):
    """Their own losses would be lost: a pose model trained without its key points."""
    from ultralytics import YOLO

    from alignyolo.ultralytics import AlignTrainer, main, use

    cfg = f"yolo11n-{end}.yaml"
    with pytest.raises(ValueError, match=f"Model, of the task '{task}': expected a YOLO of ultralytics for detection"):
        use(YOLO(cfg), loss="sca")
    with pytest.raises(TypeError, match="Model: expected a YOLO of ultralytics for detection"):
        use(YOLO(cfg).model, loss="sca")
    with pytest.raises(ValueError, match=f"task '{task}': expected"):
        AlignTrainer(overrides={"task": task, "align_loss": "sca"})
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([f"model={cfg}", "data=my.yaml", "loss=sca"])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and f"task '{task}'" in line and line.count("\n") == 1


def test_what_is_no_yolo_is_refused_with_its_name():
    from ultralytics import RTDETR, YOLOWorld

    from alignyolo.ultralytics import use

    wrong = {"YOLOWorld": YOLOWorld("yolov8s-world.yaml"), "RTDETR": RTDETR("rtdetr-l.yaml")}
    for name, model in {**wrong, "str": "yolo11n.yaml", "NoneType": None, "Linear": torch.nn.Linear(1, 1)}.items():
        with pytest.raises(TypeError, match=f"^{name}: expected a YOLO of ultralytics for detection"):
            use(model, loss="sca")


def test_a_wrapped_model_is_taken_out_of_its_wrapper():
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG

    from alignyolo.ultralytics import SimilarityBoxLoss, use

    model = DetectionModel("yolo11n.yaml", verbose=False)
    model.args = copy.copy(DEFAULT_CFG)
    use(torch.nn.DataParallel(model), loss="sca")
    assert isinstance(model.criterion.bbox_loss, SimilarityBoxLoss)


def test_tuning_is_refused_where_it_would_train_without_the_choices(monkeypatch):
    from ultralytics import YOLO

    from alignyolo.ultralytics import use

    asked = []
    monkeypatch.setattr(YOLO, "tune", lambda self, *given, **settings: asked.append((self, given, settings)))
    model = use(YOLO("yolo11n.yaml"), loss="sca")
    with pytest.raises(ValueError, match="tune: ultralytics trains each trial"):
        model.tune(data="my.yaml", iterations=1)
    assert not asked
    model.tune(use_ray=True, data="my.yaml")  # trains the model itself
    use(model).tune(data="my.yaml")
    assert asked == [(model, (True,), {"data": "my.yaml"}), (model, (False,), {"data": "my.yaml"})]


def noted(model, monkeypatch):
    """What a YOLO asks of ultralytics when it trains: whose training, and the settings."""
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "train", lambda self, trainer, **settings: asked.append((self, settings)))
        model.train(data="my.yaml")
    return asked[0]


def test_a_second_use_replaces_the_first(monkeypatch):
    from ultralytics import YOLO

    from alignyolo.ultralytics import use

    model = use(YOLO("yolo11n.yaml"), loss="sca", assign="ggiou")
    assert noted(model, monkeypatch) == (model, {"align_loss": "sca", "align_assign": "ggiou", "data": "my.yaml"})
    use(model, loss="giou")
    assert noted(model, monkeypatch) == (model, {"align_loss": "giou", "data": "my.yaml"})


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_trains_itself(way, monkeypatch):
    from ultralytics import YOLO

    from alignyolo.ultralytics import use

    model = use(YOLO("yolo11n.yaml"), loss="sca")
    other = way(model)
    trained, settings = noted(other, monkeypatch)
    assert trained is other and settings["align_loss"] == "sca"
    assert noted(model, monkeypatch)[0] is model


def test_the_branches_weights_of_a_resumed_run_stay():
    """ultralytics sets them before the training starts, when the criterion gets our parts."""
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG

    from alignyolo.ultralytics import use

    model = DetectionModel("yolo26n.yaml", verbose=False)
    model.args = copy.copy(DEFAULT_CFG)
    model.criterion = model.init_criterion()
    model.criterion.updates = 9
    model.criterion.update()
    expected = {name: getattr(model.criterion, name) for name in ("updates", "o2m", "o2o")}
    use(model, loss="sca")
    assert {name: getattr(model.criterion, name) for name in expected} == expected


def test_validation_measures_with_the_running_mean_of_training(shapes, tmp_path):
    from ultralytics import YOLO

    from alignyolo.ultralytics import use

    seen = []

    def note(trainer):
        models = trainer.model, trainer.ema.ema
        seen.append([float(each.criterion.bbox_loss.similarity.state_dict()["mean"]) for each in models])

    model = use(YOLO("yolo11n.yaml"), loss="wiou_v3")
    model.add_callback("on_fit_epoch_end", note)
    model.train(**settings_of(shapes, tmp_path, epochs=1))
    assert seen[0][0] == seen[0][1] < 1


def stopped_after_one_epoch(trainer):
    if trainer.epoch == 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize("cfg", ["yolo11n.yaml", pytest.param("yolo26n.yaml", marks=pytest.mark.slow)])
def test_a_run_is_resumed_with_its_choices_and_loads_without_us(cfg, shapes, tmp_path):
    from ultralytics import YOLO

    from alignyolo.ultralytics import HeadAssigner, SimilarityBoxLoss, parts_of, use

    model = use(YOLO(cfg), loss="inner_wiou_v3", assign="ggiou")
    model.add_callback("on_train_epoch_start", stopped_after_one_epoch)
    with pytest.raises(KeyboardInterrupt):
        model.train(**settings_of(shapes, tmp_path))
    last = tmp_path / "run" / "weights" / "last.pt"
    resumed = use(YOLO(last))
    resumed.train(resume=True)
    parts = parts_of(resumed.trainer.model.criterion)
    assert all(isinstance(part.bbox_loss, SimilarityBoxLoss) for part in parts)
    assert all(isinstance(part.assigner, HeadAssigner) for part in parts)
    assert 0 < float(parts[0].bbox_loss.similarity.state_dict()["mean"]) < 1
    code = "\n".join(
        [
            "import sys",
            "sys.path = [folder for folder in sys.path if folder]",
            f"from ultralytics import YOLO\nprint(YOLO(r'{last}').task)",
            "assert 'alignyolo' not in sys.modules",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "detect" in done.stdout


@pytest.mark.slow
def test_the_command_line_trains(shapes, tmp_path):
    settings = settings_of(shapes, tmp_path, epochs=1)
    arguments = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "alignyolo.ultralytics", "model=yolo26n.yaml", "loss=sca", "assign=ggiou"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights" / "best.pt").is_file()


class SkipsEmpty:
    """As ultralytics' loss was until 8.4.0 at least."""

    def loss(self, fg_mask):
        if fg_mask.sum():
            self.bbox_loss()


@pytest.mark.parametrize("loss", ["wiou_v3", "inner_wiou_v3", "focaler_wiou_v3"])
def test_a_mean_over_gpus_is_refused_where_some_compute_no_box_loss(loss, shapes, tmp_path, monkeypatch):
    """Those that do would wait for them; with the installed ultralytics all do."""
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    import alignyolo.ultralytics as ours

    ours.check_processes(loss, 2)
    monkeypatch.setattr(ours, "v8DetectionLoss", SkipsEmpty)
    for other, count in ((None, 2), ("wiou_v1", 2), ("inner_sca", 2), (loss, 1), (loss, 0)):
        ours.check_processes(other, count)
    monkeypatch.setattr(DetectionTrainer, "__init__", lambda self, *_: setattr(self, "world_size", 2))
    with pytest.raises(ValueError, match=f"loss '{loss}' on several GPUs: .* expected 8.4.190 or newer, one GPU"):
        ours.use(YOLO("yolo11n.yaml"), loss=loss).train(**settings_of(shapes, tmp_path))
    # In the processes themselves too.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ours.UnevenProcesses):
        criterion_of("yolo11n.yaml", loss=loss)
    assert criterion_of("yolo11n.yaml", loss="sca")
