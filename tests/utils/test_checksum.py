"""Files of torch.save with flipped bits, zeroed blocks or a cut end are refused; whole ones are not."""

import random
import zipfile

import pytest
import torch

from utils.checkpoint import load_checkpoint, load_plain, save_checkpoint
from utils.checksum import damage
from utils.errors import UserError

CONTENTS = {"model": {"weight": torch.arange(3000.0), "count": torch.tensor(3)}, "epoch": 3}


@pytest.fixture
def sealed(tmp_path):
    save_checkpoint(tmp_path / "best.pt", CONTENTS)
    return tmp_path / "best.pt"


def refused(path, data):
    path.write_bytes(data)
    try:
        load_checkpoint(path)
    except UserError as error:
        return "damaged" in str(error) and "\n" not in str(error)
    return False


def test_others_read_ours_as_before(sealed):
    """torch, and zip tools, which find the sum in the archive's comment."""
    assert torch.equal(torch.load(sealed, weights_only=True)["model"]["weight"], CONTENTS["model"]["weight"])
    with zipfile.ZipFile(sealed) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"alignyolo crc32 ")


def test_a_flipped_bit_anywhere_is_seen(sealed):
    whole = sealed.read_bytes()
    draw = random.Random(0)
    places = sorted({*draw.sample(range(len(whole)), 600), *range(80), *range(len(whole) - 120, len(whole))})
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        assert refused(sealed, flipped), place
    sealed.write_bytes(whole)
    assert load_checkpoint(sealed)["epoch"] == 3


def test_a_zeroed_block_or_a_cut_end_is_seen(sealed):
    whole = sealed.read_bytes()
    for start in range(0, len(whole), 512):
        block = whole[start : start + 512]
        if any(block):
            assert refused(sealed, whole[:start] + bytes(len(block)) + whole[start + 512 :]), start
    for cut in (1, 8, 24, 26, 46, 500):
        assert refused(sealed, whole[:-cut]), cut
    assert refused(sealed, whole + b"\0")


@pytest.mark.parametrize("kind", ["a state dict", "a checkpoint of before the check sum"])
def test_files_without_our_sum_are_checked_by_those_of_their_archive(kind, tmp_path):
    path, contents = tmp_path / "x.pt", {"format": "alignyolo", "version": 1, **CONTENTS}
    torch.save(contents if "checkpoint" in kind else CONTENTS["model"], path)
    load_plain(path, "weights")
    whole = bytearray(path.read_bytes())
    whole[whole.index(CONTENTS["model"]["weight"].numpy().tobytes()) + 1003] ^= 64
    path.write_bytes(whole)
    torch.load(path, weights_only=True)  # sees nothing
    with pytest.raises(UserError, match=r"damaged \(the check sum of x/data/0 is wrong\)"):
        load_plain(path, "weights")


def test_what_has_no_sums_at_all_loads(tmp_path):
    torch.save(CONTENTS["model"], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENTS["model"], tmp_path / "fast.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("old.pt", "fast.pt"):
        assert load_plain(tmp_path / name, "weights")["count"] == 3


def test_parts_of_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.checksum.CHUNK", 100)
    save_checkpoint(tmp_path / "best.pt", CONTENTS)
    with (tmp_path / "best.pt").open("rb") as file:
        assert damage(file) == ""
