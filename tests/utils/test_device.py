"""What a CPU is fast at, by what torch says of it."""

import pytest

from utils import device
from utils.device import mkl_is_slow


@pytest.fixture
def on(monkeypatch):
    """Return a function that sets which CPU it is."""

    def cpu(**capabilities):
        monkeypatch.setattr(device, "cpu_capabilities", lambda: capabilities)
        mkl_is_slow.cache_clear()

    yield cpu
    mkl_is_slow.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "slow"),
    [
        ({"cpu_name": "AMD EPYC 9755", "avx512_vp2intersect": True}, True),
        ({"cpu_name": "AMD EPYC 9654", "avx512_vp2intersect": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_vp2intersect": True}, False),
        ({}, False),
    ],
    ids=["Zen 5", "Zen 4", "Intel", "unknown"],
)
def test_mkl_is_slow_on_amds_cpus_since_zen_5(on, capabilities, slow):
    on(**capabilities)
    assert mkl_is_slow() is slow
