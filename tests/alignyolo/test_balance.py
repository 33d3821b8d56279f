"""The balanced weight as a function of the library; tests/models/yolov3/test_loss.py has what training makes of it."""

import pytest
import torch

from alignyolo.balance import Balance, balanced_weight

METRIC = torch.tensor([0.2, 0.5, 0.9])


def test_a_number_is_a_factor_and_auto_divides_by_the_mean():
    torch.testing.assert_close(balanced_weight(METRIC, 1.4, 2.8), 2.8 * METRIC**1.4)
    torch.testing.assert_close(balanced_weight(METRIC, 1.4, "auto").mean(), torch.tensor(1.0))


@pytest.mark.parametrize("call", [lambda wloc: balanced_weight(METRIC, 1.4, wloc), lambda wloc: Balance(1.4, wloc)])
def test_a_word_other_than_auto_is_refused(call):
    with pytest.raises(ValueError, match="wloc must be a number above 0 or 'auto', not 'atuo'"):
        call("atuo")
    for number in (-3, 0.0, float("nan")):
        with pytest.raises(ValueError, match=f"wloc must be a number above 0 or 'auto', not {number}"):
            call(number)
