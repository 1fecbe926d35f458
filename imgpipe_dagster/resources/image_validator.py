"""The limits of decoding as a resource. No logic."""

import dagster as dg
from pydantic import Field

from imgpipe_dagster.imaging.validate import ValidationLimits, Validator


class ImageValidatorResource(dg.ConfigurableResource):
    """How far a picture may go before its decoding is stopped."""

    max_pixels: int = Field(default=50_000_000, description="Largest picture that is decoded.")
    timeout_s: float = Field(default=20, description="Seconds for one picture.")
    memory_mb: int = Field(default=2048, description="Memory of one decoding child process.")
    workers: int = Field(default=2, description="Decoding child processes.")

    def open(self) -> Validator:
        """A pool of decoding child processes, as a context manager."""
        limits = ValidationLimits(max_pixels=self.max_pixels, timeout_s=self.timeout_s, memory_mb=self.memory_mb)
        return Validator(limits, workers=self.workers)
