"""Parts that the hyperparameters choose, with their settings bound: similarity, assigner, balance and gain."""

from dataclasses import fields
from typing import Any

from alignyolo.assign.assignment import Assigner
from alignyolo.balance import Balance
from alignyolo.registry import METRICS, SIMILARITIES, Entry
from alignyolo.similarities.bound import Similarity
from utils.config.knobs import Hyperparameters


def build_similarity(hyper: Hyperparameters) -> Similarity:
    """Bind the box similarity of the hyperparameters to its settings."""
    entry = SIMILARITIES[hyper.box_loss]
    return Similarity(entry, **entry.settings(hyper))


def build_assigner(entry: Entry, hyper: Hyperparameters, **around: Any) -> Assigner:
    """Bind an assigner's entry to its settings, and to what it takes of `around`, such as the head's reach."""
    kind = entry.load()
    taken = {each.name for each in fields(kind)}
    given = {name: value for name, value in around.items() if name in taken}
    return entry.bind(**entry.settings(hyper), **given)


def build_balance(hyper: Hyperparameters) -> Balance:
    """Bind the balanced weight of the box loss to its settings; gamma 0 switches it off, and reads nothing else."""
    if hyper.ggiou_gamma == 0:
        return Balance()
    entry = METRICS[hyper.balance_metric]
    return Balance(hyper.ggiou_gamma, hyper.ggiou_wloc, Similarity(entry, **entry.settings(hyper)))


def matched_gain(gain: float, match: float | str) -> float:
    """Divide the box gain by what `box_gain_match` holds; ValueError while `iou` has not been measured yet."""
    if match == "none":
        return gain
    if isinstance(match, str):
        raise ValueError(f"box_gain_match: {match} must be measured on the training truths first")
    return gain / match
