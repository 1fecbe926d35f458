"""From settings to what the layers below take or make, for faces without Dagster's resources. No logic."""

from imgpipe_dagster.catalogue.qc import ReviewLimits
from imgpipe_dagster.fetch.policy import FetchPolicy
from imgpipe_dagster.imaging.modes import EnhancementConfig
from imgpipe_dagster.imaging.validate import ValidationLimits
from imgpipe_dagster.imaging.verdict import ReviewPolicy
from imgpipe_dagster.models.classifier import Classifier, ClassifierOptions, load_classifier
from imgpipe_dagster.models.detector import Detector, DetectorOptions, load_detector
from imgpipe_dagster.settings import DEMO_WEIGHTS, Settings


def background(settings: Settings) -> str:
    """What is put behind products where nobody asks for something else."""
    return settings.background_color if settings.enable_background_removal else "keep"


def enhancement_defaults(settings: Settings) -> EnhancementConfig:
    """How a picture is enhanced where nobody asks for something else."""
    return EnhancementConfig.from_mapping(
        {
            "mode": settings.enhancement_mode,
            "background": background(settings),
            "method": settings.background_method,
            "rembg_model": settings.rembg_model,
            "min_dimension": settings.target_min_dimension,
            "target_kb": settings.target_kb,
            "profile": settings.enhancement_profile,
        }
    )


def box_classes(settings: Settings) -> list[str] | None:
    """Which detected classes help to find a product. The demo model knows shelves only: it would mislead."""
    if settings.enhancement_box_classes is None and settings.detector_weights == str(DEMO_WEIGHTS):
        return []
    return settings.enhancement_box_classes


def fetch_policy(settings: Settings, *, max_bytes: int, attempts: int) -> FetchPolicy:
    """How one file is fetched while somebody waits for it."""
    return FetchPolicy(
        connections=settings.fetch_connections,
        timeout_s=settings.fetch_timeout_s,
        connect_timeout_s=settings.fetch_connect_timeout_s,
        attempts=attempts,
        max_bytes=max_bytes,
        memory_bytes=settings.fetch_memory_bytes,
        max_redirects=settings.fetch_max_redirects,
        allow_networks=tuple(settings.fetch_allow_networks),
    )


def validation_limits(settings: Settings) -> ValidationLimits:
    """How far a picture may go before its decoding is stopped."""
    return ValidationLimits(
        max_pixels=settings.max_pixels, timeout_s=settings.decode_timeout_s, memory_mb=settings.decode_memory_mb
    )


def open_detector(settings: Settings) -> Detector:
    """What finds objects. Close it when done.

    Raises:
        WeightsError: As `load_detector`.
        ValueError: The same.
    """
    options = DetectorOptions(
        confidence=settings.detector_confidence,
        iou=settings.detector_iou,
        image_size=settings.detector_image_size,
        precision=settings.detector_precision,
        device=settings.detector_device,
        calibration_dir=settings.detector_calibration_dir,
    )
    return load_detector(
        settings.detector_weights, options, cache_dir=settings.home / "models", sha256=settings.detector_sha256
    )


def open_classifier(settings: Settings) -> Classifier:
    """What tells the status of bottles. Close it when done.

    Raises:
        WeightsError: As `load_classifier`.
        ValueError: The same.
    """
    options = ClassifierOptions(precision=settings.bottle_precision, device=settings.bottle_device)
    return load_classifier(
        settings.bottle_weights, options, cache_dir=settings.home / "models", sha256=settings.bottle_sha256
    )


def review_limits(settings: Settings) -> ReviewLimits:
    """How long claims and undo last, and when a rejection is final."""
    return ReviewLimits(settings.review_claim_minutes * 60, settings.review_undo_s, settings.max_reworks)


def review_policy(settings: Settings) -> ReviewPolicy:
    """What may be published without a person, where nothing is drawn for an audit."""
    return ReviewPolicy(settings.auto_approve_threshold, settings.high_value_threshold, audit_share=0)
