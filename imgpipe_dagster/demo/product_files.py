"""The demo's product photographs: files with a SKU, good ones and spoilt ones, for enhancement and review. No server.

The set is always the same; nothing of it is broken.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2

from imgpipe_dagster.demo.products import Backdrop, Defect, degrade, render_product

DEMO_SEED = 9_100
SIZE = (1000, 800)
HIGH_VALUE = 2500.0
"""What the most valuable product of the demo costs; pictures of such products are always reviewed."""

_PLAIN, _CLUTTERED = Backdrop.PLAIN, Backdrop.CLUTTERED
_KINDS: tuple[tuple[Backdrop, Defect | None], ...] = (
    (_PLAIN, None),
    (_PLAIN, Defect.DARK),
    (_CLUTTERED, None),
    (_PLAIN, Defect.NOISY),
    (_PLAIN, None),
    (_PLAIN, Defect.SMALL),
    (_PLAIN, Defect.BLURRED),
    (_CLUTTERED, Defect.DARK),
    (_PLAIN, None),
    (_PLAIN, Defect.JPEG),
    (_PLAIN, Defect.DARK),
    (_CLUTTERED, None),
)
_VALUES = (12.5, 49.0, HIGH_VALUE, 8.9)


@dataclass(frozen=True)
class ProductFile:
    """One product photograph and the catalogue's columns for it.

    Attributes:
        name: The file's name in the folder and in its URL.
        seed: The product; two files of one seed, backdrop and defect have the same bytes.
        backdrop: What stands behind the product.
        defect: What is wrong with the photograph, if anything.
        sku: The product's number.
        value: What the product costs.
        product_group: Its group.
    """

    name: str
    seed: int
    backdrop: Backdrop
    defect: Defect | None
    sku: str
    value: float
    product_group: str
    temple_id: None = None

    def read(self) -> bytes:
        """Make the file's bytes; takes up to half a second."""
        image = render_product(self.seed, width=SIZE[0], height=SIZE[1], backdrop=self.backdrop).image
        if self.defect is not None:
            image = degrade(image, self.defect, self.seed)
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 94])[1].tobytes()


def product_files() -> Iterator[ProductFile]:
    """The photographs in the order of their rows; nothing is rendered yet."""
    for place, (backdrop, defect) in enumerate(_KINDS):
        fault = f"-{defect}" if defect else ""
        yield ProductFile(
            name=f"product_{place:02d}-{backdrop}{fault}.jpg",
            seed=DEMO_SEED + place,
            backdrop=backdrop,
            defect=defect,
            sku=f"SKU-{1000 + place}",
            value=_VALUES[place % len(_VALUES)],
            product_group=("skin care", "first aid")[place % 2],
        )
