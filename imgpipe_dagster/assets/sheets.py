"""Contact sheets of a batch: thumbnails kept while its images are decoded anyway. No stage's own logic."""

import threading
from collections.abc import Mapping, Sequence

import dagster as dg
import numpy as np
import pandas as pd

from imgpipe_dagster.imaging.draw import Caption, class_legend, contact_sheet, to_data_uri

SHEET_TILES = 12  # more would be too small to read in 20 KB
TILE_WIDTH, TILE_HEIGHT = 320, 240
SHEET_BYTES = 20_000


class ContactSheet:
    """Thumbnails of the first images of a batch, with captions."""

    def __init__(self, image_ids: pd.Series, title: str) -> None:
        self._wanted = {int(image_id) for image_id in image_ids.head(SHEET_TILES)}
        self._title = title
        self._tiles: dict[int, tuple[np.ndarray, Caption]] = {}
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()

    def wants(self, image_id: int) -> bool:
        """Whether the image is among those shown."""
        return image_id in self._wanted

    def add(self, image_id: int, tile: tuple[np.ndarray, Caption], names: Mapping[int, str]) -> None:
        """Keep one tile. Called from a model's threads.

        Args:
            image_id: Whose picture it is.
            tile: A small uint8 BGR picture and its caption.
            names: Of the classes that its colours stand for; the sheet's legend has them.
        """
        with self._lock:
            self._tiles[image_id] = tile
            self._names.update(names)

    def markdown(self) -> dg.MarkdownMetadataValue:
        """The sheet as an inline picture of about 20 KB."""
        if not self._tiles:
            return dg.MetadataValue.md("No valid image in this batch.")
        tiles = [self._tiles[image_id] for image_id in sorted(self._tiles)]
        return dg.MetadataValue.md(inline_sheet(tiles, self._title, legend=class_legend(self._names)))


def inline_sheet(
    tiles: Sequence[tuple[np.ndarray, Caption]], title: str, *, legend: Caption = "", columns: int | None = None
) -> str:
    """A contact sheet of about 20 KB as Markdown that holds the picture itself."""
    jpeg = contact_sheet(tiles, legend=legend, columns=columns, max_bytes=SHEET_BYTES)
    return f"![{title}]({to_data_uri(jpeg)})"
