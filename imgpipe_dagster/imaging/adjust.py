"""Changes of tone and detail: noise reduction, light and colour, sharpening. Shapes and sizes stay.

All pictures are uint8 BGR of shape (height, width, 3); masks are uint8 of shape (height, width), 255 for product.
"""

import cv2
import numpy as np

STRONG_NOISE = 8.0
_USUAL_RANGE = 180.0
"""Grey levels from a product's shadows to its highlights with which nothing lacks contrast."""


def denoise(image: np.ndarray, sigma: float, strength: float = 1.0) -> np.ndarray:
    """Reduce noise of a standard deviation of ``sigma`` grey levels.

    A bilateral filter (Tomasi, Manduchi, ICCV 1998) as wide as the noise; above 8 grey levels non-local means (Buades,
    Coll, Morel: Non-Local Means Denoising, IPOL 2011), which keeps text where a wide bilateral filter would not.

    Returns:
        uint8 BGR of the same shape.
    """
    if sigma * strength > STRONG_NOISE:
        level = 1.1 * sigma * strength
        return np.asarray(cv2.fastNlMeansDenoisingColored(image, None, level, level, 5, 13))
    return np.asarray(cv2.bilateralFilter(image, 5, max(4.0, 3 * sigma) * strength, 2.0))


def correct_light(image: np.ndarray, mask: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Exposure, contrast and white balance, judged on the product alone.

    A colour cast is what the nearly neutral pixels around the product have in common: a larger one may be the
    backdrop's own colour, and the product's own tint is never taken for one. Lightness is stretched to a usual range as
    far as the scene's own highlights say that light is missing, and its median lifted by a gamma curve; hue and
    saturation stay, as all channels are scaled alike. A product with light and contrast enough keeps its colours.

    Args:
        image: uint8 BGR, (height, width, 3).
        mask: uint8, (height, width), above 127 where the product is.
        strength: 1 is usual, 0 changes nothing, 2 is strong.

    Returns:
        uint8 BGR of the same shape.
    """
    if strength == 0:
        return image
    balanced = _balance(image, mask, strength)
    grey = cv2.cvtColor(balanced, cv2.COLOR_BGR2GRAY)
    small = _thumbnail(grey)
    inside = cv2.resize(mask, small.shape[::-1], interpolation=cv2.INTER_AREA) > 127
    tones = small[inside] if inside.any() else small.ravel()
    low, middle, high = (float(np.quantile(tones, share)) for share in (0.01, 0.5, 0.99))
    curve = _tone_curve(low, middle, high, strength, lit=float(np.quantile(small, 0.99)))
    gain = curve / np.maximum(np.arange(256), 1)
    gains = cv2.LUT(grey, gain.astype(np.float32))
    # A channel that would clip takes the whole pixel with it, so that bright colours keep their hue.
    headroom = 255 / np.maximum(np.arange(256), 1)
    gains = np.minimum(gains, cv2.LUT(balanced.max(-1), headroom.astype(np.float32)))
    lit = np.empty_like(balanced)
    for channel in range(3):
        lit[..., channel] = (balanced[..., channel] * gains).clip(0, 255).round()
    return lit


def _thumbnail(layer: np.ndarray) -> np.ndarray:
    factor = min(1.0, 256 / max(layer.shape[:2]))
    size = (max(1, round(layer.shape[1] * factor)), max(1, round(layer.shape[0] * factor)))
    return np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA))


def _tone_curve(low: float, middle: float, high: float, strength: float, *, lit: float) -> np.ndarray:
    """New lightness for each of the 256 old ones."""
    black = low - min(0.5 * max(0.0, low - 12), 15, max(0.0, (_USUAL_RANGE - (high - low)) / 2))
    # A black product in a well lit scene is to stay black: it is lifted little more than the scene needs.
    lift = 1.1 * max(1.0, 235 / max(lit, 1.0)) ** 1.45
    white = max(high, min(235.0, lift * high))
    # Anchored at the highlights: a white product without contrast stays white.
    slope = float(np.clip((white - black) / max(high - low, 0.15 * high, 1.0), 1, 1.3 * white / max(high, 1.0)))
    levels = np.arange(256, dtype=np.float64)
    stretched = (white - (high - levels) * slope).clip(0, 255)
    stretched_middle = float(np.clip(white - (high - middle) * slope, 1, 254))
    centre = max(stretched_middle, min(100.0, lift * middle))
    gamma = max(0.5, np.log(centre / 255) / np.log(stretched_middle / 255))
    wanted = 255 * (stretched / 255) ** gamma
    return (levels + min(strength, 1.0) * (wanted - levels)) * max(1.0, 1 + 0.15 * (strength - 1))


def _balance(image: np.ndarray, mask: np.ndarray, strength: float) -> np.ndarray:
    small = _thumbnail(image)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
    around = cv2.resize(mask, small.shape[1::-1], interpolation=cv2.INTER_AREA) == 0
    neutral = around & (np.hypot(lab[..., 1], lab[..., 2]) < 10) & (lab[..., 0] > 40) & (lab[..., 0] < 99)
    if neutral.sum() < max(0.5 * around.sum(), 1):
        return image
    cast = np.median(lab[neutral], 0)
    if np.hypot(cast[1], cast[2]) < 2:
        return image
    # The cast's own colour becomes the grey of its lightness: one factor per channel (von Kries).
    tint = cv2.cvtColor(cast.reshape(1, 1, 3).astype(np.float32), cv2.COLOR_LAB2BGR)[0, 0]
    factors = 1 + min(strength, 1.0) * (tint.mean() / np.maximum(tint, 1e-3) - 1)
    levels = (np.arange(256)[:, None] * factors).clip(0, 255).round().astype(np.uint8)
    return np.asarray(cv2.LUT(image, levels[None]))


def sharpen(image: np.ndarray, amount: float, scale: float = 1.0) -> np.ndarray:
    """Unsharp mask that keeps text legible: differences of noise size stay, and edges do not overshoot into halos.

    Args:
        image: uint8 BGR, (height, width, 3).
        amount: Share of the detail that is added.
        scale: How much the picture was enlarged before: detail is that much wider.

    Returns:
        uint8 BGR of the same shape.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 1.2 * max(1.0, min(scale, 4.0)))
    detail = np.sign(detail) * np.maximum(np.abs(detail) - 1.5, 0)
    size = 2 * round(max(1.0, min(scale, 4.0))) + 1
    kernel = np.ones((size, size), np.uint8)
    overshoot = 10
    sharp = np.clip(
        grey + 1.6 * amount * detail, cv2.erode(grey, kernel) - overshoot, cv2.dilate(grey, kernel) + overshoot
    )
    sharp -= grey
    sharpened = np.empty_like(image)
    for channel in range(3):
        sharpened[..., channel] = (image[..., channel] + sharp).clip(0, 255).round()
    return sharpened
