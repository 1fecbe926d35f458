"""Background colours by name or number."""

import re

_NAMED = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "gray": (128, 128, 128)}


def parse_colour(text: str) -> tuple[int, int, int]:
    """Read ``white`` or ``#RRGGBB`` as BGR, each 0 to 255.

    Raises:
        ValueError: Neither; the message lists what is valid.
    """
    named = _NAMED.get(text.strip().lower())
    if named is not None:
        return named
    digits = re.fullmatch(r"#?([0-9a-fA-F]{6})", text.strip())
    if digits is None:
        raise ValueError(f"Unknown colour {text!r}: use #RRGGBB or one of {', '.join(sorted(_NAMED))}")
    red, green, blue = bytes.fromhex(digits[1])
    return blue, green, red
