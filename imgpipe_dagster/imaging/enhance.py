"""The one way to enhance a product picture: look, plan, change, encode, look again."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from imgpipe_dagster.imaging.adjust import STRONG_NOISE, correct_light, denoise, sharpen
from imgpipe_dagster.imaging.background import LEAST_SHARE, BackgroundMethod, Box, Cutout, MaskFault, remove_background
from imgpipe_dagster.imaging.colours import parse_colour
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.encode import Encoded, encode
from imgpipe_dagster.imaging.matting import product_colours
from imgpipe_dagster.imaging.modes import (
    KEEP,
    TRANSPARENT,
    EnhancementConfig,
    Mode,
    OutputFormat,
    PlannedStep,
    Step,
    plan,
)
from imgpipe_dagster.imaging.pictures import read_picture
from imgpipe_dagster.imaging.profiles import RuleResult, check_profile
from imgpipe_dagster.imaging.quality import Issue, Quality, estimate_noise, score

WORSE = 2.0
"""By so much a score may fall before a person has to look."""

_TOO_BLURRED = 0.67
_MOST_AT_BORDER = 0.05  # of the sides of the product's bounding box


@dataclass(frozen=True)
class Enhanced:
    """A picture's way through enhancement.

    Attributes:
        image: uint8 BGR, (height, width, 3): what was encoded.
        alpha: uint8, (height, width): where the product is in ``image``.
        encoded: The file.
        steps: What was done, in order, and why.
        before: Quality of the product as it came.
        after: Quality of the product in the file.
        cutout: The mask in the original's pixels and whether it is to be trusted; None if none was made.
        background_replaced: Whether the original background is gone.
        rules: The profile's rules, measured; empty without a profile.
        review_reasons: Why a person should look, whatever the score; empty if nothing speaks for it.
    """

    image: np.ndarray
    alpha: np.ndarray
    encoded: Encoded
    steps: tuple[PlannedStep, ...]
    before: Quality
    after: Quality
    cutout: Cutout | None
    background_replaced: bool
    rules: tuple[RuleResult, ...]
    review_reasons: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.shape[1], self.image.shape[0]


def enhance(
    picture: bytes | np.ndarray,
    config: EnhancementConfig,
    *,
    boxes: Sequence[Box] = (),
    decoded: np.ndarray | None = None,
) -> Enhanced:
    """Enhance one product picture. The same picture, configuration and boxes give the same bytes.

    Args:
        picture: A validated file, or uint8 BGR of shape (height, width, 3).
        config: What to do.
        boxes: The detector's boxes (x1, y1, x2, y2) in the upright picture's pixels.
        decoded: What ``decode_bgr`` makes of a file, if that is there already.

    Raises:
        DecodeError: The file cannot be read.
        MethodUnavailableError: The background method lacks its package or model.
    """
    image, given = read_picture(picture, decoded) if isinstance(picture, bytes) else (picture, None)
    height, width = image.shape[:2]
    noise = estimate_noise(image)
    cutout = _cut_out(image if noise < STRONG_NOISE else denoise(image, noise), given, config, boxes)
    trusted = cutout is not None and cutout.plausible
    mask = cutout.alpha if cutout is not None and trusted else np.full((height, width), 255, np.uint8)
    if given is not None and not trusted:  # nothing in it is opaque: it is seen as it shows before the background
        image = _compose(image, given, background_colour(config))
    before = score(image, mask if trusted else None)
    steps = plan(config, before, (width, height), background_is_done=given is None and _is_plain(image, mask, config))
    planned = {planned.step for planned in steps}

    if Step.DENOISE in planned:
        image = denoise(image, noise, config.denoise)
    if Step.LIGHT in planned:
        image = correct_light(image, mask, config.light)
    replaced = trusted and (Step.BACKGROUND in planned or given is not None) and config.background != KEEP
    if replaced:
        image = product_colours(image, mask)
    image, alpha, scale = _place(image, mask, config, planned, cropped=replaced)
    if Step.SHARPEN in planned:
        image = sharpen(image, config.sharpen, scale)
    transparent = replaced and config.background == TRANSPARENT
    if replaced and not transparent:
        image = _compose(image, alpha, background_colour(config))
    elif not replaced and Step.STANDARDIZE in planned:
        image = _compose(image, alpha, background_colour(config))

    encoded = encode(
        image,
        config.format,
        target_kb=largest_kb(config),
        alpha=alpha if transparent else None,
    )
    # As whoever opens the file sees it: what the compression took is missing from the score.
    after = score(image if encoded.format is OutputFormat.PNG else decode_bgr(encoded.data), alpha)
    rules = []
    if config.rules:
        # Where nobody knows what the background is, it is what is seen along the picture's own border.
        product = alpha if trusted else cv2.erode(alpha, np.ones((5, 5), np.uint8), borderValue=0)
        rules = check_profile(image, product, config.rules, size_bytes=len(encoded.data))
    cut_off = replaced and given is None and _is_cut_off(mask)
    return Enhanced(
        image=image,
        alpha=alpha,
        encoded=encoded,
        steps=tuple(steps if replaced else [step for step in steps if step.step is not Step.BACKGROUND]),
        before=before,
        after=after,
        cutout=cutout,
        background_replaced=replaced,
        rules=tuple(rules),
        review_reasons=_review_reasons(cutout, encoded, before, after, rules, cut_off=cut_off),
    )


def judge(picture: bytes | np.ndarray, *, boxes: Sequence[Box] = ()) -> Quality:
    """Score a picture without changing it: its product, or all of it where no mask is to be trusted.

    Args and errors are those of ``enhance``.
    """
    image, given = read_picture(picture) if isinstance(picture, bytes) else (picture, None)
    noise = estimate_noise(image)
    cutout = _cut_out(image if noise < STRONG_NOISE else denoise(image, noise), given, EnhancementConfig(), boxes)
    return score(image, cutout.alpha if cutout is not None and cutout.plausible else None)


def _cut_out(
    image: np.ndarray, given: np.ndarray | None, config: EnhancementConfig, boxes: Sequence[Box]
) -> Cutout | None:
    if given is not None:
        # Someone has cut the product out already: that is the mask.
        fault = MaskFault.NEARLY_EMPTY if (given > 127).mean() < LEAST_SHARE else None
        return Cutout(given, fault, BackgroundMethod.KEEP)
    wanted = Step.BACKGROUND in config.steps if config.steps is not None else config.mode in (Mode.AUTO, Mode.FULL)
    if not wanted or config.background == KEEP or config.method is BackgroundMethod.KEEP:
        return None
    return remove_background(image, config.method, boxes, rembg_model=config.rembg_model)


def _is_cut_off(mask: np.ndarray) -> bool:
    """Whether what was found goes on beyond the picture: a product that is not whole, or what holds it."""
    product = mask > 127
    left, top, right, bottom = _extent(mask)
    at_border = sum(int(side.sum()) for side in (product[0], product[-1], product[:, 0], product[:, -1]))
    return at_border > _MOST_AT_BORDER * 2 * (right - left + bottom - top)


def _is_plain(image: np.ndarray, mask: np.ndarray, config: EnhancementConfig) -> bool:
    """Whether what is not product has the wanted colour already, but for a little noise of compression."""
    if config.background in (TRANSPARENT, KEEP):
        return config.background == KEEP
    outside = image[cv2.dilate(mask, np.ones((9, 9), np.uint8)) == 0]
    if not outside.size:
        return False
    colour = np.array(background_colour(config))
    lowest, highest = (np.clip(colour + by, 0, 255).astype(np.uint8) for by in (-2, 2))
    return bool(((outside >= lowest) & (outside <= highest)).all(-1).mean() > 0.995)


def background_colour(config: EnhancementConfig) -> tuple[int, int, int]:
    """What is put behind a product that was cut out, and around a picture that is framed whole, as BGR."""
    if config.rules is not None and config.rules.background is not None:
        return parse_colour(config.rules.background)
    return parse_colour("white" if config.background in (TRANSPARENT, KEEP) else config.background)


def largest_kb(config: EnhancementConfig) -> float | None:
    """The largest size of the file in KB that the configuration and its profile allow; None for no limit."""
    limits = [limit for limit in (config.target_kb, config.rules and config.rules.max_kb) if limit is not None]
    return min(limits, default=None)


def _place(
    image: np.ndarray, mask: np.ndarray, config: EnhancementConfig, planned: set[Step], *, cropped: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Enlarge, and put the product (or the whole picture) into the standard frame, in one resampling.

    Returns:
        The picture, its alpha, and how much larger it is. Outside the picture the alpha is 0.
    """
    height, width = image.shape[:2]
    if Step.STANDARDIZE not in planned:
        scale = _enlargement(config, max(width, height)) if Step.UPSCALE in planned else 1.0
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return _resize(image, size), _resize(mask, size), scale
    frame_width, frame_height = frame_size(config)
    left, top, right, bottom = _extent(mask) if cropped else (0, 0, width, height)
    margin = _margin(config) if cropped else 0.0
    scale = min(frame_width * (1 - 2 * margin) / (right - left), frame_height * (1 - 2 * margin) / (bottom - top))
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    x, y = (frame_width - size[0]) // 2, (frame_height - size[1]) // 2
    framed = np.zeros((frame_height, frame_width, 3), np.uint8)
    alpha = np.zeros((frame_height, frame_width), np.uint8)
    framed[y : y + size[1], x : x + size[0]] = _resize(image[top:bottom, left:right], size)
    alpha[y : y + size[1], x : x + size[0]] = _resize(mask[top:bottom, left:right], size)
    return framed, alpha, scale


def _enlargement(config: EnhancementConfig, longer: int) -> float:
    if config.mode is Mode.UPSCALE and config.steps is None:
        return config.upscale_factor
    return max(1.0, config.min_dimension / longer)


def frame_size(config: EnhancementConfig) -> tuple[int, int]:
    """Width and height of the standard frame."""
    longer = config.min_dimension
    if config.rules is not None:
        longer = min(max(longer, config.rules.min_side or 0), config.rules.max_side or longer)
    if config.aspect >= 1:
        return longer, max(1, round(longer / config.aspect))
    return max(1, round(longer * config.aspect)), longer


def _margin(config: EnhancementConfig) -> float:
    if config.rules is None or config.rules.min_fill is None:
        return config.margin
    return max(0.0, min(config.margin, (1 - config.rules.min_fill) / 2 - 0.005))


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero((mask > 0).any(1)), np.flatnonzero((mask > 0).any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _resize(layer: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if size == (layer.shape[1], layer.shape[0]):
        return layer
    if size[0] < layer.shape[1]:
        return np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA))
    # A mask is not enlarged with Lanczos: its overshoot would draw faint lines beside the edge.
    kernel = cv2.INTER_LANCZOS4 if layer.ndim == 3 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(layer, size, interpolation=kernel))


def _compose(image: np.ndarray, alpha: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    cover = alpha.astype(np.float32) / 255
    mixed = np.empty_like(image)
    for channel, value in enumerate(colour):
        mixed[..., channel] = (image[..., channel] * cover + np.float32(value) * (1 - cover)).round()
    return mixed


def _review_reasons(
    cutout: Cutout | None,
    encoded: Encoded,
    before: Quality,
    after: Quality,
    rules: Sequence[RuleResult],
    *,
    cut_off: bool,
) -> tuple[str, ...]:
    reasons = [cutout.fault.value] if cutout is not None and cutout.fault is not None else []
    if encoded.target_unreachable:
        reasons.append("target_unreachable")
    if after.score < before.score - WORSE:
        reasons.append("score_worse")
    if Issue.COMPRESSED in before.issues:
        # Enlarging hides the blocks from the score, but no step brings back what the compression threw away.
        reasons.append("source_compressed")
    if before.components.sharpness < _TOO_BLURRED:
        # Sharpening changes how edges look; it does not bring back what was between them.
        reasons.append("source_blurry")
    reasons += [f"profile_{result.rule}" for result in rules if not result.passed]
    if cut_off:
        reasons.append("product_cut_off")
    return tuple(reasons)
