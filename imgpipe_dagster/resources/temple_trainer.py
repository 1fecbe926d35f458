"""How models of temples are made, as a resource. No logic."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from imgpipe_dagster.models.temple_cnn import TrainingOptions
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.temples.logs import TempleLogs
from imgpipe_dagster.temples.training import ModelSettings


class TempleTrainerResource(dg.ConfigurableResource):
    """Settings and logs of trainings."""

    scale_factor: float = Field(default=0.05, description="The first training picture times this is the input.")
    min_confidence: float = Field(default=0.5, description="Below this probability a picture has no category.")
    epochs: int = Field(default=100, description="Most passes over the training pictures.")
    time_limit_s: float = Field(default=1800, description="Training ends after so long.")
    memory_mb: int = Field(default=4096, description="A training that would take more memory is refused.")
    log_dir: str = Field(description="Folder of log.txt and error_log.txt.")

    @property
    def settings(self) -> ModelSettings:
        """As training takes them."""
        options = TrainingOptions(epochs=self.epochs, time_limit_s=self.time_limit_s, max_memory_mb=self.memory_mb)
        return ModelSettings(self.scale_factor, self.min_confidence, options)

    @property
    def logs(self) -> TempleLogs:
        """The two logs."""
        return TempleLogs(Path(self.log_dir))


def temple_trainer(settings: Settings) -> TempleTrainerResource:
    """The resource that an installation's settings describe; commands use it without Dagster."""
    return TempleTrainerResource(
        scale_factor=settings.temple_scale_factor,
        min_confidence=settings.temple_min_confidence,
        epochs=settings.temple_epochs,
        time_limit_s=settings.temple_training_limit_s,
        memory_mb=settings.temple_training_memory_mb,
        log_dir=str(settings.home / "logs" / "temples"),
    )
