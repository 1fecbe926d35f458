"""The classifier as a resource. No logic; the heavy libraries load when the model does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from imgpipe_dagster.models.classifier import Classifier


class ClassifierResource(dg.ConfigurableResource):
    """Which weights say what a picture shows, of which objects crops are classified too, and how."""

    weights: str = Field(description="Ultralytics weights: .pt, .onnx, an OpenVINO folder, or a name.")
    cache_dir: str = Field(description="Folder for exported and compiled models.")
    sha256: str | None = Field(default=None, description="Refuse weights with another SHA-256.")
    crop_classes: list[str] = Field(default_factory=list, description="Detected classes that are classified as crops.")
    precision: str = Field(default="fp32", description="fp32 (exact) or bf16.")
    device: str = Field(default="auto", description="auto, cpu or cuda.")

    @contextmanager
    def open(self) -> Iterator["Classifier"]:
        """The loaded classifier, closed afterwards."""
        from imgpipe_dagster.models.classifier import ClassifierOptions, load_classifier

        options = ClassifierOptions(
            precision=self.precision,  # type: ignore[arg-type] - validated there
            device=self.device,  # type: ignore[arg-type] - validated there
        )
        cache_dir = Path(self.cache_dir)
        with load_classifier(self.weights, options, cache_dir=cache_dir, sha256=self.sha256) as classifier:
            yield classifier
