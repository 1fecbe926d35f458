"""How clients ask for enhancement, and what that means for the one way in which pictures are enhanced."""

from typing import Any

from pydantic import BaseModel, Field

from imgpipe_dagster.imaging.modes import KEEP, Mode, Step
from imgpipe_dagster.settings import Settings

_SINGLE_STEPS: dict[Mode, tuple[Step, ...]] = {
    Mode.SHARPEN: (Step.SHARPEN,),
    Mode.DENOISE: (Step.DENOISE,),
    Mode.UPSCALE: (Step.UPSCALE,),
    Mode.OPTIMIZE: (),
}


class EnhanceOptions(BaseModel):
    """What to do to pictures; what is not said is as the installation has it."""

    mode: Mode | None = Field(default=None, examples=["auto"])
    remove_background: bool | None = Field(
        default=None, description="true replaces the background in any mode, false keeps it.", examples=[True]
    )
    background_color: str | None = Field(
        default=None, max_length=20, description="white, #RRGGBB or transparent.", examples=["#FFFFFF"]
    )
    target_size_kb: float | None = Field(
        default=None, gt=0, le=1_000_000, description="Largest size of the file in KB.", examples=[500]
    )
    target_min_dimension: int | None = Field(
        default=None, ge=16, le=10_000, description="The longer side is enlarged to so many pixels.", examples=[1500]
    )


def overrides(wanted: EnhanceOptions, settings: Settings) -> dict[str, Any]:
    """The settings that are laid over those of the installation, the group and the SKU."""
    config: dict[str, Any] = {
        "mode": None if wanted.mode is None else wanted.mode.value,
        "background": wanted.background_color,
        "target_kb": wanted.target_size_kb,
        "min_dimension": wanted.target_min_dimension,
    }
    if wanted.remove_background is False:
        config["background"] = KEEP
    elif wanted.remove_background:
        config["background"] = wanted.background_color or settings.background_color
        if (alone := _SINGLE_STEPS.get(wanted.mode or Mode(settings.enhancement_mode))) is not None:
            config["steps"] = [step.value for step in (Step.BACKGROUND, *alone)]
    return {name: value for name, value in config.items() if value is not None}
