"""How sure a temple's classifier may be: a temperature for its probabilities and a limit for each category's distance.

Both are found on pictures that were held out of training. Numbers in, numbers out; no pictures, no network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_QUANTILE = 0.98  # of the held-out distances lie below the limit; a margin to the 5% of false alarms that are allowed
_MIN_HELD_OUT = 3  # fewer say nothing about a category
_TINY = 1e-12


@dataclass(frozen=True)
class Calibration:
    """What was found on held-out pictures.

    Attributes:
        temperature: By which the network's log-probabilities are divided.
        distance_limits: For each label, the distance beyond which a picture counts as unknown; None where too few
            pictures were held out to know one.
        held_out: Pictures that this rests on, without the varied copies of them.
    """

    temperature: float
    distance_limits: tuple[float | None, ...]
    held_out: int


def calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at a temperature (Guo et al., "On calibration of modern neural networks", ICML 2017).

    Args:
        probabilities: (n, labels), of a softmax. Their logarithms are logits, but for a constant that cancels out.
        temperature: Above 1 the answers become less sure.

    Returns:
        float64, (n, labels); the order of the labels of a picture never changes.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), _TINY)) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    scaled = np.exp(logits)
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The temperature at which held-out answers are as right as they are sure; 1 if none were held out.

    Minimises the cross-entropy against softened targets, (n+1)/(n+2) for the true label: with targets of 1, a
    classifier that makes no mistake on a few pictures would be told to be infinitely sure (Platt 1999, section 2.2).

    Args:
        probabilities: (n, labels).
        truth: int, (n,): index of the true label.
    """
    count, labels = probabilities.shape
    if count == 0 or labels < 2:
        return 1.0
    sure = (count + 1) / (count + 2)
    targets = np.full((count, labels), (1 - sure) / (labels - 1))
    targets[np.arange(count), truth] = sure

    def cross_entropy(log_temperature: float) -> float:
        scaled = calibrated(probabilities, float(np.exp(log_temperature)))
        return float(-(targets * np.log(np.maximum(scaled, _TINY))).sum(axis=1).mean())

    return float(np.exp(_minimum(cross_entropy, np.log(0.1), np.log(10.0))))


def distance_limit(distances: np.ndarray) -> float | None:
    """The distance that held-out pictures of a category stay within; None if there are fewer than three.

    Args:
        distances: (n,), of held-out pictures from their own category's subspace.
    """
    if len(distances) < _MIN_HELD_OUT:
        return None
    return float(np.quantile(distances, _QUANTILE, method="higher"))


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is smallest, to a thousandth (golden-section search, Kiefer 1953)."""
    golden = (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-3:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = function(right)
    return (low + high) / 2
