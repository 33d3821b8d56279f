"""TorchScript files compute where their user loads them: nothing in them is bound to the CPU that traced them."""

import re

import pytest
import torch

from engine.export.runtimes import open_backend
from export import export
from models.families import FAMILIES
from tests.lively import lively_checkpoint
from utils.config.export_formats import EXPORT_FORMATS

VARIANTS = {
    "tiny": ("yolov3-tiny", {"channels": [4, 4, 8, 8, 8, 8, 8]}),
    "tiny-darknet": ("yolov3-tiny", {"channels": [4, 4, 8, 8, 8, 8, 8], "decode": "darknet", "pool_padding": "lowest"}),
    "spp": ("yolov3-spp", {"channels": [4, 4, 4, 8, 8, 8]}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", EXPORT_FORMATS["torchscript"].layouts)
@pytest.mark.parametrize("dynamic", [False, True])
def test_no_operation_is_bound_to_the_cpu(variant, layout, dynamic, tmp_path):
    """The device meta has shapes alone, and as a GPU does it refuses what mixes its tensors with the CPU's."""
    path = lively_checkpoint(tmp_path / "best.pt", *VARIANTS[variant], ("a", "b"), (64, 96))
    (file,) = export(weights=str(path), format=["torchscript"], layout=layout, dynamic=dynamic)
    module = torch.jit.load(str(file))
    assert not re.findall(r'Device = prim::Constant\[value="cpu"\]', str(module.inlined_graph))
    assert 'torch.device("cpu")' not in module.code
    images = torch.rand(1, 3, 64, 96)
    expected = module(images)
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            part._c.setattr(name, value.to("meta"))  # its own `to` does not know this device
    moved = module(images.to("meta"))
    assert (moved.device.type, moved.shape) == ("meta", expected.shape)
    boxes, scores = open_backend(path).run(images)
    found = open_backend(file).run(images)
    assert torch.allclose(found[0], boxes, atol=0.01)
    assert torch.allclose(found[1], scores, atol=1e-4)


def test_no_other_family_is_written_so():
    """Whose export would have to be looked through too."""
    able = {name for name, family in FAMILIES.items() if "torchscript" in (family.exporting.formats or EXPORT_FORMATS)}
    assert able == {"yolov3"}
