"""The quality score of a product picture, 0 to 100, higher is better, and what is wrong with it.

The score is that of the product. It is the product of six factors, each raised to its weight: one grave fault is not
made up for by five virtues, as it would be in a sum. What each factor measures stands with its function.
"""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

# The product is judged as on a page that shows it this large; a smaller one is not enlarged, its blur counts more.
_VIEW_SIDE = 720
_WEIGHTS = {"sharpness": 0.8, "exposure": 0.5, "contrast": 0.25, "noise": 0.85, "resolution": 0.4, "compression": 0.45}
_ISSUE_BELOW = 0.7
_NO_EDGES = 144.0
_INVISIBLE_NOISE = 0.5
_RAMP = 0.25
_STRONGEST_STEP = 1500.0
# Luminance quantisation of JPEG at quality 50 (ITU-T T.81, table K.1): the frequencies in which steps are looked for.
_JPEG_STEPS = {
    (0, 1): 11,
    (1, 0): 12,
    (1, 1): 12,
    (0, 2): 10,
    (2, 0): 14,
    (1, 2): 14,
    (2, 1): 13,
    (2, 2): 16,
    (0, 3): 16,
}


class Issue(StrEnum):
    """What a reviewer is told; the list is closed."""

    BLURRY = "blurry"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    LOW_CONTRAST = "low_contrast"
    NOISY = "noisy"
    LOW_RESOLUTION = "low_resolution"
    COMPRESSED = "compressed"


@dataclass(frozen=True)
class Components:
    """The factors of the score, each from 0 (worst) to 1 (nothing to mend)."""

    sharpness: float
    exposure: float
    contrast: float
    noise: float
    resolution: float
    compression: float


@dataclass(frozen=True)
class Quality:
    """A verdict.

    Attributes:
        score: 0 to 100, higher is better.
        components: Its factors.
        issues: What is wrong, in the order of the closed list.
        blur_px: Standard deviation of the blur of edges, in pixels of the view.
        noise_sigma: Standard deviation of the noise, in grey levels of the view.
        brightness: Median lightness of the product, 0 to 255.
    """

    score: float
    components: Components
    issues: tuple[Issue, ...]
    blur_px: float
    noise_sigma: float
    brightness: float


@dataclass(frozen=True)
class _View:
    """The product as judged: grey float32, (height, width), and mask; view per picture pixels; where it begins."""

    grey: np.ndarray
    mask: np.ndarray
    scale: float
    origin: tuple[int, int]


def score(image: np.ndarray, mask: np.ndarray | None = None) -> Quality:
    """Judge the product in a picture. What is outside the mask has no influence.

    Args:
        image: uint8 BGR, (height, width, 3).
        mask: uint8, (height, width), above 127 where the product is. Without one, or with an empty one, the
            whole picture is judged.
    """
    inside = np.full(image.shape[:2], True) if mask is None else mask > 127
    if not inside.any():
        inside[:] = True
    top, bottom, left, right = _bounds(inside)
    picture, inside = image[top:bottom, left:right], inside[top:bottom, left:right]
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    view = _view(grey, inside, (left, top))
    side = max(grey.shape)
    noise_sigma = _noise_sigma(view)
    variance = _blur_variance(view, noise_sigma) * max(1.0, _VIEW_SIDE / side) ** 2
    dark, light, contrast, brightness = _tones(picture, inside)
    components = Components(
        sharpness=1 / (1 + variance / 10),
        exposure=min(dark, light),
        contrast=contrast,
        noise=1 / (1 + max(0.0, noise_sigma - _INVISIBLE_NOISE) / 7),
        resolution=float(np.clip(np.log2(side / 40) / np.log2(600 / 40), 0.02, 1)),
        compression=_compression(picture, inside, (left, top)),
    )
    total = 100 * float(np.prod([max(getattr(components, name), 1e-3) ** power for name, power in _WEIGHTS.items()]))
    return Quality(total, components, _issues(components, dark, light), variance**0.5, noise_sigma, brightness)


def _issues(components: Components, dark: float, light: float) -> tuple[Issue, ...]:
    found = {
        Issue.BLURRY: components.sharpness,
        Issue.DARK: dark,
        Issue.OVEREXPOSED: light,
        Issue.LOW_CONTRAST: components.contrast,
        Issue.NOISY: components.noise,
        Issue.LOW_RESOLUTION: components.resolution,
        Issue.COMPRESSED: components.compression,
    }
    return tuple(issue for issue, value in found.items() if value < _ISSUE_BELOW)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _view(grey: np.ndarray, inside: np.ndarray, origin: tuple[int, int]) -> _View:
    """The product on its own mean grey, so that nothing of the background reaches any filter."""
    core = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    core = core if core.any() else inside
    filled = np.where(core, grey, grey[core].mean(dtype=np.float64)).astype(np.float32)
    scale = min(1.0, _VIEW_SIDE / max(grey.shape))
    if scale < 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        filled = cv2.resize(filled, size, interpolation=cv2.INTER_AREA)
        core = cv2.resize(core.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return _View(filled, core, scale, origin)


def estimate_noise(image: np.ndarray) -> float:
    """Standard deviation of a picture's noise in grey levels of its own pixels; uint8 BGR, (height, width, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return _noise_sigma(_View(grey, np.full(grey.shape, True), 1.0, (0, 0)))


def _noise_sigma(view: _View) -> float:
    """Noise of the quietest twentieth of the blocks (Immerkær: Fast Noise Variance Estimation, CVIU 1996)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(view.grey, cv2.CV_32F, kernel))
    valid = cv2.erode(view.mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    valid &= (view.grey > 4) & (view.grey < 251)
    height, width = (length // 8 * 8 for length in view.grey.shape)
    if height == 0 or width == 0:
        return 0.0
    response, valid = response[:height, :width] * valid[:height, :width], valid[:height, :width].astype(np.float32)
    blocks = (height // 8, 8, width // 8, 8)
    counts = valid.reshape(blocks).sum((1, 3)).ravel()
    sums = response.reshape(blocks).sum((1, 3)).ravel()
    used = counts > 32
    if not used.any():
        return 0.0
    return float(np.sqrt(np.pi / 2) / 6 * np.quantile(sums[used] / counts[used], 0.05))


def _blur_variance(view: _View, noise_sigma: float) -> float:
    """Square of the blur of the product's edges in pixels, from how much two Gaussian blurs flatten them.

    A step blurred by s has the gradient 1/sqrt(s² + t²) after another blur t; the ratio at two t gives s (Zhuo, Sim:
    Defocus Map Estimation, Pattern Recognition 2011). Taken at the strongest ridges of the gradient. Lines finer than a
    step would come out negative, so the scale begins at the finest line.
    """
    fine, coarse = _gradient(view.grey, 1.0), _gradient(view.grey, 2.0)
    valid = cv2.erode(view.mask.astype(np.uint8), np.ones((13, 13), np.uint8), borderValue=0) > 0
    ridge = (coarse >= cv2.dilate(coarse, np.ones((3, 3), np.uint8))) & valid & ~_jpeg_grid(view)
    strength = coarse[ridge]
    if strength.size == 0 or strength.max() < 1:
        return _NO_EDGES
    # So many by area and not by rank: noise adds weak ridges without end.
    count = min(strength.size, max(20, np.count_nonzero(view.mask) // 250))
    ranked = np.partition(strength, -count)[-count:]
    # Strong JPEG compression leaves ramps inside its blocks, weak beside any edge of the product.
    strong = strength >= max(ranked.min(), _RAMP * np.sort(ranked)[-20:].mean(), 1.0)
    # White noise of s has the gradient s/sqrt(4π) per pixel after a blur of 1.
    clean = np.sqrt(np.maximum(fine[ridge][strong] ** 2 - noise_sigma**2 / (4 * np.pi), 0))
    # A mean, by strength: the middle one of few edges jumps with every change of a pixel.
    ratio = float((clean * strength[strong]).sum() / (strength[strong] ** 2).sum())
    finest = 0.2
    return max(0.0, min(_NO_EDGES, (4 - ratio**2) / max(ratio**2 - 1, 0.02) + finest))


def _jpeg_grid(view: _View) -> np.ndarray:
    """Where JPEG's blocks meet: the jumps there are no edges of the product."""
    on_line = []
    for length, start in zip(view.grey.shape, view.origin[::-1], strict=True):
        phase = ((np.arange(length) + 0.5) / view.scale + start) % 8
        on_line.append(np.minimum(phase, 8 - phase) <= 1)
    return on_line[0][:, None] | on_line[1][None]


def _gradient(grey: np.ndarray, sigma: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(grey, (0, 0), sigma)
    right = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=0.125)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=0.125)
    return cv2.magnitude(right, down)


def _tones(picture: np.ndarray, inside: np.ndarray) -> tuple[float, float, float, float]:
    """Not too dark, not too light, contrast (each 0…1), and the median lightness; from a thumbnail, so without noise.

    Dark and light look at the tones that a black or a white product has too: its highlights and its shades.
    """
    factor = min(1.0, 160 / max(inside.shape))
    size = (max(1, round(inside.shape[1] * factor)), max(1, round(inside.shape[0] * factor)))
    weight = cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32) * inside
    tones = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-6))[weight > 0.9]
    if tones.size == 0:
        tones = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[inside].astype(np.float32)
    low, shade, middle, highlight, high = np.quantile(tones, (0.02, 0.1, 0.5, 0.9, 0.98))
    dark = _ramp(float(0.6 * high + 0.4 * highlight), 15, 130)
    light = 1 - _ramp(float(0.6 * shade + 0.4 * low), 215, 255)
    return dark, light, _ramp(float(high - low), 0, 70) ** 0.5, float(middle)


def _ramp(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))


def _compression(picture: np.ndarray, inside: np.ndarray, origin: tuple[int, int]) -> float:
    """How much survived JPEG: 1 for none, 0.85 at quality 50, 0.14 at quality 20.

    Flat where the eye sees little: a second, lighter compression hides the steps of the first one, and a picture
    would gain by it.
    """
    grey = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_BGR2GRAY)
    blocks = _blocks(grey, inside, origin)
    if len(blocks) == 0:
        return 1.0
    step = _quantisation(blocks)
    if step == 0 and _blockiness(grey, inside, origin) > 0.025:  # so strong that hardly a coefficient is left
        step = _STRONGEST_STEP
    return 1 / (1 + 0.03 * min(step / 40, 1) + (step / 160) ** 4)


def _blockiness(grey: np.ndarray, inside: np.ndarray, origin: tuple[int, int]) -> float:
    """How much more often flat surfaces meet in a step at the borders of JPEG's blocks than elsewhere, 0…1."""
    shares = []
    for values, valid, start in ((grey, inside, origin[0]), (grey.T, inside.T, origin[1])):
        change = np.abs(np.diff(values, axis=1))
        usable = valid[:, 1:] & valid[:, :-1]
        flat = change < 1
        step = np.zeros_like(usable)
        step[:, 1:-1] = (change[:, 1:-1] > 3) & flat[:, :-2] & flat[:, 2:]
        steps, places = (step & usable).sum(0), usable.sum(0)
        phase = (np.arange(change.shape[1]) + start + 1) % 8
        rates = [steps[phase == at].sum() / max(1, places[phase == at].sum()) for at in range(8)]
        shares.append(rates[0] - float(np.median(rates)))
    return float(np.mean(shares))


def _blocks(grey: np.ndarray, inside: np.ndarray, origin: tuple[int, int]) -> np.ndarray:
    """The 8 by 8 blocks of the whole picture's grid that lie in the product, (n, 8, 8)."""
    left, top = -origin[0] % 8, -origin[1] % 8
    height, width = ((length - start) // 8 * 8 for length, start in zip(grey.shape, (top, left), strict=True))
    if height <= 0 or width <= 0:
        return np.empty((0, 8, 8), np.float32)

    def cut(values: np.ndarray) -> np.ndarray:
        part = values[top : top + height, left : left + width]
        return part.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)

    return cut(grey)[cut(inside).all((1, 2))]


def _quantisation(blocks: np.ndarray) -> float:
    """Step of the last JPEG quantisation in per cent of quality 50's; 0 where none shows.

    Coefficients of a decoded JPEG sit on multiples of their step (Fan, de Queiroz: Identification of Bitmap Compression
    History, TIP 2003). A step is believed where the coefficients' phases agree.
    """
    waves = np.cos(np.pi * (2 * np.arange(8) + 1) * np.arange(8)[:, None] / 16) / 2
    waves[0] /= np.sqrt(2)
    found = []
    for (row, column), usual in _JPEG_STEPS.items():
        values = np.abs(np.einsum("nyx,y,x->n", blocks, waves[row], waves[column], optimize=True))
        for step in range(min(255, usual * 12), 2, -1):
            used = values[values > step / 2]
            if used.size >= 24 and np.cos(2 * np.pi * used / step).mean() > 0.6:
                found.append(100 * step / usual)
                break
    return float(np.median(found)) if len(found) >= 3 else 0.0
