"""The edge of a cut-out: a soft mask at full size, and colours there that are free of the old background."""

import cv2
import numpy as np

_GUIDE_SIDE = 640
_GUIDE_EPSILON = 1e-4
_BAND_PIXELS = 4_000_000  # colours are found in bands of so many pixels: they take 200 bytes each


def refine(image: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Give a mask solved at reduced size soft edges that follow the picture's own, within a narrow band.

    The colour guided filter (He, Sun, Tang: Guided Image Filtering, PAMI 2013), its coefficients taken at reduced size
    (He, Sun: Fast Guided Filter, 2015).

    Args:
        image: uint8 BGR, (height, width, 3).
        votes: float32, (height, width), 0 for background to 1 for product.

    Returns:
        uint8, (height, width), 0 for background to 255 for product.
    """
    height, width = votes.shape
    factor = min(1.0, _GUIDE_SIDE / max(height, width))
    size = [max(2, round(length * factor)) for length in (width, height)]
    guide = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    radius = max(2, round(max(size) / 100))
    slope, offset = _guided_coefficients(guide, cv2.resize(votes, size, interpolation=cv2.INTER_AREA), radius)
    alpha = cv2.resize(offset, (width, height), interpolation=cv2.INTER_LINEAR)
    for channel in range(3):  # one after the other: of a large picture, each of these layers takes hundreds of MB
        alpha += cv2.resize(slope[..., channel], (width, height)) * (image[..., channel] / np.float32(255))
    # Stretched about one half: a veil of old background is worse than an edge that is a little hard.
    np.clip((alpha - 0.5) * 2 + 0.5, 0, 1, out=alpha)
    reach = max(1, round(radius / factor)) + 0.5
    mask = (votes > 0.5).astype(np.uint8)
    alpha[_distance_to(0, mask) > reach] = 1
    alpha[_distance_to(1, mask) > reach] = 0
    return (255 * alpha).round().astype(np.uint8)


def _distance_to(value: int, mask: np.ndarray) -> np.ndarray:
    """How far each pixel of a mask of 0 and 1 is from the nearest of that value, in pixels; infinite without one."""
    if not (mask == value).any():
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform((mask != value).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _guided_coefficients(guide: np.ndarray, target: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """He's colour guided filter up to the last step: alpha = slope · colour + offset. Shapes (h, w, 3) and (h, w)."""
    size = (2 * radius + 1, 2 * radius + 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, size).astype(np.float32)

    centre, level = mean(guide), mean(target)
    products = guide[..., [0, 0, 0, 1, 1, 2]] * guide[..., [0, 1, 2, 1, 2, 2]]
    spread = np.concatenate([mean(products[..., :3]), mean(products[..., 3:])], -1)
    spread -= centre[..., [0, 0, 0, 1, 1, 2]] * centre[..., [0, 1, 2, 1, 2, 2]]
    common = mean(guide * target[..., None]) - centre * level[..., None]
    slope = _solve_symmetric(spread, common)
    offset = level - (slope * centre).sum(-1)
    return mean(slope), mean(offset)


def _solve_symmetric(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a symmetric 3 by 3 system per pixel (Cramer). Shapes (h, w, 6) as xx xy xz yy yz zz, and (h, w, 3)."""
    xx, xy, xz, yy, yz, zz = cv2.split(matrix)
    xx, yy, zz = xx + _GUIDE_EPSILON, yy + _GUIDE_EPSILON, zz + _GUIDE_EPSILON
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    x, y, z = cv2.split(right)
    determinant = xx * a + xy * b + xz * c
    return (
        cv2.merge([(a * x + b * y + c * z), (b * x + d * y + e * z), (c * x + e * y + f * z)]) / determinant[..., None]
    )


def product_colours(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Replace the old background's colour in half-covered pixels by that of the product beside them.

    The blurred product is the estimate and the residual corrects it (Forte: Approximate Fast Foreground Colour
    Estimation, ICIP 2021), in two passes from wide to narrow.

    Args:
        image: uint8 BGR, (height, width, 3).
        alpha: uint8, (height, width).

    Returns:
        uint8 BGR of the same shape; pixels that are wholly product keep their value, those far from it are black.
    """
    if not ((alpha > 0) & (alpha < 255)).any():
        return image
    radii = (max(3, max(alpha.shape) // 40), 5)
    reach = sum(radii)  # no pixel looks further
    left, begin, width, height = cv2.boundingRect(alpha)
    columns = slice(max(left - reach, 0), left + width + reach)
    end = min(begin + height + reach, alpha.shape[0])
    rows = max(_BAND_PIXELS // (width + 2 * reach), 1)
    colours = np.zeros_like(image)
    for top in range(max(begin - reach, 0), end, rows):
        bottom, first = min(top + rows, end), max(top - reach, 0)
        context = slice(first, bottom + reach), columns
        band = _product_colours(image[context], alpha[context], radii)
        colours[top:bottom, columns] = band[top - first : bottom - first]
    return colours


def _product_colours(image: np.ndarray, alpha: np.ndarray, radii: tuple[int, int]) -> np.ndarray:
    cover = (alpha.astype(np.float32) / 255)[..., None]
    source = image.astype(np.float32)
    product = behind = source
    for radius in radii:
        product, behind = _split_colours(source, product, behind, cover, radius)
    colours = np.where((alpha == 255)[..., None], source, product)
    return colours.clip(0, 255).round().astype(np.uint8)


def _split_colours(
    image: np.ndarray, product: np.ndarray, behind: np.ndarray, cover: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    size = (2 * radius + 1, 2 * radius + 1)
    # Nearly pure pixels count most.
    purely, purely_behind = np.square(np.square(cover)), np.square(np.square(1 - cover))
    product = cv2.blur(product * purely, size) / (cv2.blur(purely, size)[..., None] + 1e-6)
    behind = cv2.blur(behind * purely_behind, size) / (cv2.blur(purely_behind, size)[..., None] + 1e-6)
    product = product + cover * (image - cover * product - (1 - cover) * behind)
    return product.clip(0, 255), behind.clip(0, 255)
