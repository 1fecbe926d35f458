"""The detector as a resource. No logic; the heavy libraries load when the model does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from imgpipe_dagster.models.detector import Detector


class DetectorResource(dg.ConfigurableResource):
    """Which weights find the objects, and how."""

    weights: str = Field(description="Ultralytics weights: .pt, .onnx, an OpenVINO folder, or a name.")
    cache_dir: str = Field(description="Folder for exported and compiled models.")
    sha256: str | None = Field(default=None, description="Refuse weights with another SHA-256.")
    precision: str = Field(default="fp32", description="fp32 (exact), bf16 or int8.")
    confidence: float = Field(default=0.25, description="Boxes below are dropped.")
    iou: float = Field(default=0.7, description="Of two boxes that overlap more, the weaker goes.")
    image_size: int | None = Field(default=None, description="Input size in pixels; default: that of the weights.")
    device: str = Field(default="auto", description="auto, cpu or cuda.")
    calibration_dir: str | None = Field(default=None, description="Folder of pictures that int8 is calibrated with.")

    @contextmanager
    def open(self) -> Iterator["Detector"]:
        """The loaded detector, closed afterwards."""
        from imgpipe_dagster.models.detector import DetectorOptions, load_detector

        options = DetectorOptions(
            confidence=self.confidence,
            iou=self.iou,
            image_size=self.image_size,
            precision=self.precision,  # type: ignore[arg-type] - validated there
            device=self.device,  # type: ignore[arg-type] - validated there
            calibration_dir=Path(self.calibration_dir) if self.calibration_dir else None,
        )
        cache_dir = Path(self.cache_dir)
        with load_detector(self.weights, options, cache_dir=cache_dir, sha256=self.sha256) as detector:
            yield detector
