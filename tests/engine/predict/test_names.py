"""No two photos, videos or frames of a run have their files under one name."""

from pathlib import PurePath

from engine.predict.names import FRAME, Names


def given(photos, videos=(), by_frame=True):
    names = Names(lambda path: PurePath(path).stem, photos, videos, by_frame)
    return [names.of(path) for path in (*photos, *videos)]


def test_a_later_photo_keeps_its_own_name():
    assert given(["a.jpg", "a.png", "a_2.jpg", "a.bmp"]) == ["a", "a_3", "a_2", "a_4"]
    assert given(["x/a.jpg", "y/a.jpg"], ["a.mp4"]) == ["a", "a_2", "a_3"]


def test_no_photo_is_named_as_a_frame():
    photos, videos = ["clip_000001.jpg", "clip_2_000007.jpg", "b_1.jpg"], ["clip.mp4", "b.mp4", "clip.avi"]
    found = given(photos, videos)
    assert found == ["clip_000001", "clip_2_000007", "b_1", "clip_3", "b", "clip_4"]
    frames = {FRAME.format(stem=stem, frame=frame) for stem in found[3:] for frame in (1, 7, 1_000_000)}
    assert len(frames) == 9
    assert not frames & set(found)
    assert given(photos, videos, by_frame=False)[3:] == ["clip", "b", "clip_2"]


def test_what_is_not_listed_has_a_name_too():
    names = Names(lambda path: "stream", [], [], True)
    assert [names.of(path) for path in ("rtsp://a", "rtsp://b", "rtsp://a")] == ["stream", "stream_2", "stream"]
