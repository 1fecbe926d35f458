"""How pictures are enhanced where nothing else is asked for, and what may pass without a person, as resources."""

import dagster as dg
import pandas as pd
from pydantic import Field

from imgpipe_dagster.imaging.background import Box
from imgpipe_dagster.imaging.modes import EnhancementConfig
from imgpipe_dagster.imaging.verdict import ReviewPolicy


class EnhancerResource(dg.ConfigurableResource):
    """The defaults of enhancement, and the machine that it runs on."""

    mode: str = Field(default="auto", description="The plan of steps.")
    background: str = Field(default="#FFFFFF", description="white, #RRGGBB, transparent or keep.")
    method: str = Field(default="grabcut", description="How the product is found.")
    rembg_model: str = Field(default="u2netp", description="For rembg: a model's name or an ONNX file.")
    min_dimension: int = Field(default=1500, description="Longer side in pixels that pictures are enlarged to.")
    target_kb: float = Field(default=500, description="Largest size of a file in KB.")
    profile: str | None = Field(default=None, description="A marketplace's rules to aim at.")
    box_classes: list[str] | None = Field(default=None, description="Detected classes that are products; None: all.")
    box_confidence: float = Field(default=0.5, description="Boxes below do not help to find the product.")
    workers: int | None = Field(default=None, description="Threads; None: as many as there are processors.")
    hour_price: float = Field(default=0.1, description="What an hour of the machine costs.")

    def prior_boxes(self, detections: pd.DataFrame) -> dict[int, tuple[Box, ...]]:
        """The boxes (x1, y1, x2, y2) by image that help to find the product."""
        chosen = detections[detections["confidence"] >= self.box_confidence]
        if self.box_classes is not None:
            chosen = chosen[chosen["class_name"].isin(self.box_classes)]
        return {
            int(str(image_id)): tuple(map(tuple, boxes[["x1", "y1", "x2", "y2"]].to_numpy(float).tolist()))
            for image_id, boxes in chosen.groupby("image_id", sort=False)
        }

    def defaults(self) -> EnhancementConfig:
        """How an image is enhanced whose group and SKU ask for nothing else."""
        return EnhancementConfig.from_mapping(
            {
                "mode": self.mode,
                "background": self.background,
                "method": self.method,
                "rembg_model": self.rembg_model,
                "min_dimension": self.min_dimension,
                "target_kb": self.target_kb,
                "profile": self.profile,
            }
        )


class ReviewPolicyResource(dg.ConfigurableResource):
    """What may be published without a person."""

    threshold: float = Field(default=75, description="Pictures with a score above pass.")
    high_value: float = Field(default=1000, description="Pictures of SKUs of this value or more never pass.")
    audit_share: float = Field(default=0.03, description="Share of those that would pass which are looked at.")

    def policy(self) -> ReviewPolicy:
        """The policy as the decision takes it."""
        return ReviewPolicy(self.threshold, self.high_value, self.audit_share)
