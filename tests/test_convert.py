"""convert.py's own flags: ranges are checked before anything is read, and what is named must be there."""

import pytest

import convert
from tests.data.formats.small_sets import coco_document, photo, write_json
from utils.errors import UserError


@pytest.fixture
def source(tmp_path):
    names = [f"{number}.jpg" for number in range(4)]
    for name in names:
        photo(tmp_path / "in" / name)
    return write_json(tmp_path / "in" / "train.json", coco_document(names))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--val", ".5", "--seed", "-1"], "--seed is -1: expected 0 to"),
        (["--seed", "x"], "--seed is 'x': expected a whole number"),
        (["--val", "nan"], "--val nan: expected a share"),
        (["--max-pixels", "-3"], "--max-pixels is -3: expected 1 to 1073741824"),
        (["--max-pixels", "99999999999"], "expected 1 to 1073741824"),
        (["--photos", "nowhere"], "--photos: no such folder: nowhere"),
        (["--photos", "."], None),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_flags_out_of_range(flags, message, dry, source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    arguments = ["coco", str(source), str(tmp_path / "out"), *flags, *dry]
    if message is None:
        convert.main(arguments)
        return
    with pytest.raises(UserError) as error:
        convert.main(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tool", ["labelme", "cvat", "datumaro", "label_studio", "lvis"])
def test_a_photos_folder_that_is_not_there(tool, source, tmp_path):
    with pytest.raises(UserError, match="--photos: no such folder: .*nowhere"):
        convert.main([tool, str(source), str(tmp_path / "out"), "--photos", str(tmp_path / "nowhere")])
