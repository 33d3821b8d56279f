#!/bin/sh
# trackeval 1.3.0 (TrackEval), CLEAR: Frag counts how often the track of an object is broken off and taken up again ("total
# number of times a trajectory is fragmented", MOTChallenge). A frame without any detection is left early, before what was
# tracked in the frame before is forgotten, so that a gap in which the tracker gave nothing at all is no gap. A false detection
# anywhere in that frame makes it one. With one or few objects on a video, most gaps are of that kind, and a tracker that loses
# its object again and again has a Frag of 0.
# Seen, of one object in 6 frames that is missed in the fourth: Frag 0; with a false detection in the fourth 1; motmetrics 1.4.0
# counts 1 for both. Of an object missed in every second frame of 11: Frag 0, motmetrics 5.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# trackeval without what only its plots and its data sets of masks need.
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    motmetrics==1.4.0 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 xmltodict==1.0.4 2> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    trackeval==1.3.0 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import motmetrics
import numpy as np
from trackeval.metrics.clear import CLEAR


def fragments(frames):
    """Return Frag of one object by both packages; each frame is True (found), False (nothing) or None (a false detection)."""
    names = {True: [7], False: [], None: [8]}
    tracks = [np.array(names[each], int) for each in frames]
    overlaps = [np.full((1, len(track)), 0.0 if each is None else 0.9) for each, track in zip(frames, tracks)]
    numbers = {7: 0, 8: 1}
    data = {
        "gt_ids": [np.array([0]) for _ in frames],
        "tracker_ids": [np.array([numbers[each] for each in track], int) for track in tracks],
        "similarity_scores": overlaps,
        "num_gt_dets": len(frames),
        "num_tracker_dets": sum(map(len, tracks)),
        "num_gt_ids": 1,
        "num_tracker_ids": 2 if None in frames else 1,
        "num_timesteps": len(frames),
    }
    judge = motmetrics.MOTAccumulator(auto_id=True)
    for track, overlap in zip(tracks, overlaps):
        judge.update([0], track.tolist(), np.where(overlap >= 0.5, 1 - overlap, np.nan))
    table = motmetrics.metrics.create().compute(judge, metrics=["num_fragmentations"], name="all")
    return int(CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)["Frag"]), int(table["num_fragmentations"].iloc[0])


cases = {
    "a gap with nothing in it": [True, True, True, False, True, True],
    "a gap with a false detection": [True, True, True, None, True, True],
    "every second frame missed": [True, False] * 5 + [True],
}
seen = {name: fragments(frames) for name, frames in cases.items()}
for name, (ours, judge) in seen.items():
    print(f"{name}: Frag {ours}, by motmetrics {judge}")
sys.exit(0 if list(seen.values()) == [(0, 1), (1, 1), (0, 5)] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
