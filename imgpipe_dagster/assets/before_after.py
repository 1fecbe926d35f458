"""What people see of an enhanced batch in Dagster's UI: pictures before and after, scores, speed and cost."""

import threading
from collections.abc import Iterable
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from imgpipe_dagster.assets.common import Progress
from imgpipe_dagster.assets.sheets import TILE_HEIGHT, TILE_WIDTH, inline_sheet
from imgpipe_dagster.imaging.draw import thumbnail
from imgpipe_dagster.imaging.enhance import Enhanced
from imgpipe_dagster.imaging.pictures import read_picture

SHEET_PAIRS = 8  # more would be too small to read in 20 KB
_BIN = 10


class BeforeAfterSheet:
    """Thumbnails of some images before and after, side by side, made while their pixels are at hand."""

    def __init__(self, image_ids: Iterable[int]) -> None:
        """Choose images from all over the batch."""
        ids = list(image_ids)
        self._wanted = {ids[number * len(ids) // SHEET_PAIRS] for number in range(SHEET_PAIRS)} if ids else set()
        self._pairs: dict[int, list[tuple[np.ndarray, str]]] = {}
        self._lock = threading.Lock()

    def add(self, image_id: int, original: bytes, enhanced: Enhanced) -> None:
        """Keep the two thumbnails of an image, if it is among the chosen. Called from the enhancing threads."""
        if image_id not in self._wanted:
            return
        image, _ = read_picture(original)
        pair = [
            (thumbnail(image, TILE_WIDTH, TILE_HEIGHT), f"{image_id}: {enhanced.before.score:.0f}"),
            (thumbnail(enhanced.image, TILE_WIDTH, TILE_HEIGHT), f"→ {enhanced.after.score:.0f}"),
        ]
        with self._lock:
            self._pairs[image_id] = pair

    def markdown(self) -> dg.MarkdownMetadataValue:
        """The sheet as an inline picture of about 20 KB."""
        if not self._pairs:
            return dg.MetadataValue.md("No image of this batch was enhanced.")
        tiles = [tile for image_id in sorted(self._pairs) for tile in self._pairs[image_id]]
        return dg.MetadataValue.md(inline_sheet(tiles, "Before and after", columns=4))


def enhancement_metadata(
    images: pd.DataFrame, metrics: pd.DataFrame, progress: Progress, hour_price: float
) -> dict[str, Any]:
    """How many, how much better, how fast, and what 1,000 images cost on this machine."""
    failed = images[images["reason"].notna()]
    seconds = 1000 / progress.per_second if progress.done else 0.0
    scores = metrics.groupby("phase")["score"].mean()
    return {
        "images": len(images),
        "enhanced": len(images) - len(failed),
        "failed_by_reason": failed["reason"].value_counts().sort_index().astype(int).to_dict(),
        "background_replaced": int(images["background_replaced"].fillna(False).astype(bool).sum()),
        "review_reasons": images["review_reasons"].explode().dropna().value_counts().sort_index().astype(int).to_dict(),
        "mean_score_before": round(float(scores.get("before", 0.0)), 1),
        "mean_score_after": round(float(scores.get("after", 0.0)), 1),
        "images_per_second": round(progress.per_second, 2),
        "seconds_per_1000": round(seconds, 1),
        "cost_per_1000": round(seconds / 3600 * hour_price, 4),
        "model_version": ", ".join(sorted(images["model_version"].unique())) or "none",
    }


def score_histogram(metrics: pd.DataFrame) -> dg.TableMetadataValue:
    """How many images have which score, before and after."""
    rows = []
    for low in range(0, 100, _BIN):
        high = 101 if low + _BIN == 100 else low + _BIN
        inside = metrics[(metrics["score"] >= low) & (metrics["score"] < high)]["phase"]
        rows.append(
            dg.TableRecord(
                {
                    "score": f"{low} to {low + _BIN}",
                    "before": int((inside == "before").sum()),
                    "after": int((inside == "after").sum()),
                }
            )
        )
    columns = [dg.TableColumn("score", "string"), dg.TableColumn("before", "int"), dg.TableColumn("after", "int")]
    return dg.MetadataValue.table(rows, schema=dg.TableSchema(columns=columns))
