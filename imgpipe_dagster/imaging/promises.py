"""What an enhanced picture is promised to be, measured on the file that is published. No enhancement here."""

from enum import StrEnum

import cv2

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.enhance import WORSE, Enhanced, background_colour, frame_size, largest_kb
from imgpipe_dagster.imaging.modes import TRANSPARENT, EnhancementConfig, Mode, Step

_WHITE = (255, 255, 255)
# A block of JPEG's halved colours: so far the ringing of an edge may reach.
_RINGING = 16


class Promise(StrEnum):
    """What may be relied on; the value is the name of the check that watches it."""

    WHITE = "background_is_pure_white"
    SIZE = "size_within_target_kb"
    DIMENSIONS = "dimensions_are_standard"
    SCORE = "score_not_worse"


def broken_promises(enhanced: Enhanced, config: EnhancementConfig) -> tuple[Promise, ...]:
    """The promises that a picture does not keep, in the order of the closed list.

    - White: where the background was replaced by white, every pixel of the file is 255, 255, 255, but for those of the
      product and those next to it that compression touches.
    - Size: the file is not larger than the configuration and its profile allow.
    - Dimensions: a standardized picture has exactly the frame's size; one of the modes ``auto`` and ``full`` has a
      longer side of ``min_dimension`` at least.
    - Score: it is not more than 2 points lower than before.
    """
    kept = {
        Promise.WHITE: lambda: _is_white(enhanced, config),
        Promise.SIZE: lambda: _is_small(enhanced, config),
        Promise.DIMENSIONS: lambda: _is_standard(enhanced, config),
        Promise.SCORE: lambda: enhanced.after.score >= enhanced.before.score - WORSE,
    }
    return tuple(promise for promise, is_kept in kept.items() if not is_kept())


def _is_white(enhanced: Enhanced, config: EnhancementConfig) -> bool:
    asked = enhanced.background_replaced and config.background != TRANSPARENT and background_colour(config) == _WHITE
    if not asked:
        return True
    published = decode_bgr(enhanced.encoded.data)
    reach = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * _RINGING + 1, 2 * _RINGING + 1))
    return bool((published[cv2.dilate(enhanced.alpha, reach) == 0] == 255).all())


def _is_small(enhanced: Enhanced, config: EnhancementConfig) -> bool:
    largest = largest_kb(config)
    return largest is None or len(enhanced.encoded.data) <= largest * 1024


def _is_standard(enhanced: Enhanced, config: EnhancementConfig) -> bool:
    if Step.STANDARDIZE in {planned.step for planned in enhanced.steps}:
        return enhanced.size == frame_size(config)
    plan_enlarges = config.steps is None and config.mode in (Mode.AUTO, Mode.FULL)
    return not plan_enlarges or max(enhanced.size) >= config.min_dimension
