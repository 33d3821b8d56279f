"""Weights of detectors with other classes: the rows of the last layers are taken by class name, never by number."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The rows of a last layer, for each anchor: `fixed` ones that know no class, then `each` for every class."""

    name: re.Pattern[str]
    fixed: int
    each: int


LAYOUTS = (
    Layout(re.compile(r"(^|\.)head\.convs\.\d+\.(weight|bias)$"), 5, 1),  # YOLOv3: box, objectness, classes
    Layout(re.compile(r"cls_logits\.(weight|bias)$"), 0, 1),  # RetinaNet
    Layout(re.compile(r"classification_head\.module_list\..*(weight|bias)$"), 1, 1),  # SSD: background first
    Layout(re.compile(r"box_predictor\.cls_score\.(weight|bias)$"), 1, 1),  # Faster R-CNN: background first
    Layout(re.compile(r"box_predictor\.bbox_pred\.(weight|bias)$"), 4, 4),
)


def nameless(names: Sequence[str]) -> bool:
    """Tell whether class names are only numbers, since Darknet's files hold none."""
    return list(names) == [f"class{number}" for number in range(len(names))]


def names_on(theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, ...]:
    """Return the class names of weights on data with classes `ours`: these, where theirs are as many numbers."""
    return tuple(ours if nameless(theirs) and len(theirs) == len(ours) else theirs)


def by_class_name(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor], theirs: Sequence[str], ours: Sequence[str]
) -> tuple[dict[str, Tensor], str]:
    """Arrange the rows of `source` for our classes, those of new classes as they are in `target`; say what was done.

    Nothing changes, and nothing is said, where the classes are the same in the same order, or where one side has none
    or numbers for names (Darknet's files hold none).
    """
    if not theirs or list(theirs) == list(ours) or nameless(theirs) or nameless(ours):
        return dict(source), ""
    place = {name: number for number, name in enumerate(theirs)}
    taken = {label: place[name] for label, name in enumerate(ours) if name in place}
    arranged = dict(source)
    for name, tensor in source.items():
        layout = next((each for each in LAYOUTS if each.name.search(name)), None)
        if layout is None or name not in target or not tensor.ndim:
            continue
        old, new = (layout.fixed + layout.each * len(names) for names in (theirs, ours))
        anchors = tensor.shape[0] // old
        fits = tensor.shape[0] == anchors * old and target[name].shape == (anchors * new, *tensor.shape[1:])
        if fits:
            arranged[name] = _arranged(tensor, target[name], layout, anchors, taken)
    missing = [name for name in ours if name not in place]
    told = f"classes: {len(taken)} of {len(ours)} taken by their names"
    return arranged, told + (f"; started afresh: {', '.join(missing[:8])}" if missing else "")


def _arranged(tensor: Tensor, target: Tensor, layout: Layout, anchors: int, taken: Mapping[int, int]) -> Tensor:
    old = tensor.view(anchors, -1, *tensor.shape[1:])
    new = target.detach().clone().to(tensor.dtype).view(anchors, -1, *tensor.shape[1:])
    with torch.no_grad():
        new[:, : layout.fixed] = old[:, : layout.fixed]
        for label, other in taken.items():
            here, there = (layout.fixed + layout.each * number for number in (label, other))
            new[:, here : here + layout.each] = old[:, there : there + layout.each]
    return new.view(target.shape)
