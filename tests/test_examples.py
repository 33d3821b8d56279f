"""The losses and the matching in other people's detectors, and what the example with NumPy shows a network.

Those are torchvision's stock RetinaNet and an ultralytics YOLO.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import RetinaNet

from alignyolo.similarities.iou import ciou
from alignyolo.similarities.sca import sca
from data.images import read_image
from examples.torchvision_sca import SCAHead, main
from examples.ultralytics_sca import use_similarity
from utils import ultralytics_only as ultralytics_door
from utils.letterbox import Letterbox


def test_sca_and_ggiou_in_stock_retinanet():
    losses = main()
    assert set(losses) == {"classification", "bbox_regression"}
    assert all(value.isfinite() and value > 0 for value in losses.values())


def test_the_head_is_torchvisions_but_for_the_similarity():
    """With GIoU in the place of SCA it is torchvision's own giou option, to the digit."""
    import examples.torchvision_sca as example
    from alignyolo.similarities.iou import giou

    torch.manual_seed(0)
    backbone = torch.nn.Conv2d(3, 16, 3, stride=16, padding=1)
    backbone.out_channels = 16
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    generator = AnchorGenerator(((24, 32),), ((0.5, 1.0, 2.0),))
    stock = RetinaNet(backbone, 3, anchor_generator=generator, min_size=128, max_size=128)
    stock.head.regression_head._loss_type = "giou"
    ours = RetinaNet(backbone, 3, anchor_generator=generator, min_size=128, max_size=128)
    ours.head.regression_head = SCAHead(16, generator.num_anchors_per_location()[0])
    ours.load_state_dict(stock.state_dict())
    images = [torch.rand(3, 128, 128) for _ in range(3)]
    targets = [
        {"boxes": torch.tensor([[20.0, 30, 60, 60], [70, 70, 100, 90]]), "labels": torch.tensor([0, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
        {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])},
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "sca", giou)
        found, expected = ours(images, targets), stock(images, targets)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def yolo():
    """A narrow YOLO11, and a batch in ultralytics' form."""
    assert ultralytics_door  # first: it sets the library offline and silent
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel("yolo11n.yaml", nc=3, verbose=False).train()
    model.args = get_cfg()
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "batch_idx": torch.tensor([0.0, 0, 1]),
        "cls": torch.tensor([[0.0], [1], [2]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.3, 0.2, 0.5], [0.6, 0.4, 0.5, 0.5]]),
    }
    return model, batch


def test_sca_in_an_ultralytics_yolo(yolo):
    model, batch = yolo
    stock, _ = model.init_criterion()(model(batch["img"]), batch)
    use_similarity(model, sca)
    loss, items = model.loss(batch)
    loss.sum().backward()
    box = list(items.values())[0] if isinstance(items, dict) else items[0]
    assert torch.isfinite(loss).all() and float(box) > 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert not torch.allclose(loss[0], stock[0]) and torch.allclose(loss[1:], stock[1:], rtol=1e-4)


def test_ciou_through_the_example_is_ultralytics_own_loss(yolo):
    model, batch = yolo
    predictions = model(batch["img"])
    stock, _ = model.init_criterion()(predictions, batch)
    use_similarity(model, ciou)
    again, _ = model.criterion(predictions, batch)
    torch.testing.assert_close(again, stock, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "turned"), [((64, 48), False), ((50, 90), True), ((288, 384), True)])
def test_the_example_with_numpy_shows_a_network_what_detect_does(size, turned, tmp_path, monkeypatch):
    """Also of a photo that lies on its side, as its EXIF block says, and of one that is smaller than the input."""
    from examples import onnx_numpy

    class Session:
        def __init__(self, model, providers):
            self.custom_metadata_map = {"names": "{0: 'a'}", "imgsz": "[96, 128]"}

        def get_modelmeta(self):
            return self

        def run(self, outputs, given):
            shown.append(given["images"])
            return [np.zeros((1, 5, 1), np.float32)]

    shown = []
    monkeypatch.setattr(onnx_numpy.onnxruntime, "InferenceSession", Session)
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    photo, exif = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), Image.Exif()
    if turned:
        exif[274] = 6
    photo.save(tmp_path / "photo.png", exif=exif)
    onnx_numpy.main("best.onnx", str(tmp_path / "photo.png"))
    image = read_image(tmp_path / "photo.png")
    assert image.shape[:2] == (size if turned else size[::-1])
    expected = Letterbox.fit(image.shape[:2], (96, 128)).apply(image).astype(int).transpose(2, 0, 1)
    assert np.abs(np.rint(shown[0][0] * 255) - expected).max() <= 1
