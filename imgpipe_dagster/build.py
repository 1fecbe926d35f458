"""The one assembler of the Dagster definitions: settings in, definitions out; tests and the CLI override parts."""

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy.engine import URL

from imgpipe_dagster.alerts.configured import delivery_policy, watch_limits
from imgpipe_dagster.assets.freshness import build_freshness_checks
from imgpipe_dagster.assets.model_versions import MODEL_CHECKS
from imgpipe_dagster.catalogue.batches import BatchLimits
from imgpipe_dagster.configured import background, box_classes
from imgpipe_dagster.jobs import (
    ANALYSE_ASSETS,
    ENHANCE_ASSETS,
    TRAINING_ASSETS,
    analyse,
    check_models,
    enhance,
    training,
)
from imgpipe_dagster.pruning import Age
from imgpipe_dagster.resources.classifier import ClassifierResource
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.detector import DetectorResource
from imgpipe_dagster.resources.enhancer import EnhancerResource, ReviewPolicyResource
from imgpipe_dagster.resources.image_fetcher import ImageFetcherResource
from imgpipe_dagster.resources.image_store import ImageStoreResource
from imgpipe_dagster.resources.image_validator import ImageValidatorResource
from imgpipe_dagster.resources.kafka_source import KafkaSourceResource
from imgpipe_dagster.resources.mailer import MailerResource
from imgpipe_dagster.resources.sql_source import SqlSourceResource
from imgpipe_dagster.resources.table_io_manager import (
    EnhancementPublishingIOManager,
    PublishingIOManager,
    TableIOManager,
)
from imgpipe_dagster.resources.temple_trainer import temple_trainer
from imgpipe_dagster.schedules import build_models_schedule, build_prune_job, build_prune_schedule
from imgpipe_dagster.sensors.alerts import build_alerts_sensor, build_feeds_sensor, build_run_failures_sensor
from imgpipe_dagster.sensors.jobs import build_jobs_sensor
from imgpipe_dagster.sensors.kafka_source import build_kafka_source_sensor
from imgpipe_dagster.sensors.new_images import AttemptLimits, build_new_images_sensor
from imgpipe_dagster.sensors.sql_source import build_sql_source_sensor
from imgpipe_dagster.sensors.temple_training import build_temple_training_sensor
from imgpipe_dagster.sensors.training_jobs import build_training_jobs_sensor
from imgpipe_dagster.settings import (
    DATABASE_URL_VARIABLE,
    KAFKA_SASL_PASSWORD_VARIABLE,
    KAFKA_SSL_KEY_PASSWORD_VARIABLE,
    SMTP_URL_VARIABLE,
    SQL_SOURCE_URL_VARIABLE,
    Settings,
)


def build_defs(settings: Settings, *, resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Assemble assets, jobs, sensors and resources.

    Args:
        settings: This installation's settings.
        resource_overrides: Resources to use instead of those that the settings describe, by name.
    """
    fail, warn = settings.freshness_minutes, settings.effective_freshness_warn_minutes
    freshness = dg.FreshnessPolicy.time_window(  # Dagster takes no window of less than a minute
        fail_window=dt.timedelta(minutes=max(fail, 1)),
        warn_window=dt.timedelta(minutes=warn) if 1 <= warn < fail else None,
    )
    assets = dg.map_asset_specs(
        lambda spec: (
            spec.replace_attributes(freshness_policy=freshness)
            if spec.key == dg.AssetKey("image_predictions")
            else spec
        ),
        [*ANALYSE_ASSETS, *ENHANCE_ASSETS, *TRAINING_ASSETS],
    )
    sensor = build_new_images_sensor(
        [analyse, enhance],
        BatchLimits(settings.batch_size, settings.batch_max_size, settings.batch_max_wait_s),
        AttemptLimits(settings.max_attempts, settings.heartbeat_limit_s),
        settings.max_concurrent_batches,
    )
    prune = build_prune_job(Age(settings.retention_days or None, settings.api_address_days))
    return dg.Definitions(
        assets=assets,
        asset_checks=[*build_freshness_checks(watch_limits(settings)), *MODEL_CHECKS],
        jobs=[analyse, enhance, training, prune, check_models],
        schedules=[
            build_prune_schedule(prune, settings.prune_cron),
            build_models_schedule(check_models, settings.prune_cron),
        ],
        sensors=[
            sensor,
            build_alerts_sensor(watch_limits(settings), delivery_policy(settings)),
            build_feeds_sensor(watch_limits(settings)),
            build_jobs_sensor(settings.batch_size, settings.max_concurrent_batches),
            build_run_failures_sensor(settings.max_attempts),
            build_kafka_source_sensor(
                bool(settings.kafka_bootstrap_servers and settings.kafka_topic), settings.kafka_interval_s
            ),
            build_sql_source_sensor(settings.sql_source_query, settings.sql_source_interval_s),
            build_temple_training_sensor(training, settings.temple_retrain_after),
            build_training_jobs_sensor(training),
        ],
        resources={**build_resources(settings), **(resource_overrides or {})},
        executor=dg.in_process_executor,  # backfills from the UI run outside the jobs and take this one
    )


def build_resources(settings: Settings) -> dict[str, Any]:
    """The resources that the settings describe, by name."""
    database = DatabaseResource(url=shown_url(settings.catalogue_url, DATABASE_URL_VARIABLE))
    sql_source_url = settings.effective_sql_source_url
    return {
        "database": database,
        "mailer": MailerResource(
            url=dg.EnvVar(SMTP_URL_VARIABLE) if settings.smtp_url else "", timeout_s=settings.smtp_timeout_s
        ),
        "table_io_manager": TableIOManager(database=database),
        "publishing_io_manager": PublishingIOManager(database=database, enhance=settings.enhance),
        "enhancement_publishing_io_manager": EnhancementPublishingIOManager(database=database),
        "image_store": ImageStoreResource(
            url=settings.effective_store_url,
            s3_endpoint_url=settings.s3_endpoint_url,
            s3_region=settings.s3_region,
        ),
        "image_fetcher": ImageFetcherResource(
            base_url=settings.cdn_base_url,
            connections=settings.fetch_connections,
            timeout_s=settings.fetch_timeout_s,
            connect_timeout_s=settings.fetch_connect_timeout_s,
            attempts=settings.fetch_attempts,
            max_bytes=settings.fetch_max_bytes,
            memory_bytes=settings.fetch_memory_bytes,
            max_redirects=settings.fetch_max_redirects,
            allow_networks=settings.fetch_allow_networks,
        ),
        "image_validator": ImageValidatorResource(
            max_pixels=settings.max_pixels,
            timeout_s=settings.decode_timeout_s,
            memory_mb=settings.decode_memory_mb,
        ),
        "kafka_source": KafkaSourceResource(
            bootstrap_servers=settings.kafka_bootstrap_servers or "",
            topic=settings.kafka_topic or "",
            store_url=settings.effective_store_url,
            group=settings.kafka_group,
            dead_letter_topic=settings.kafka_dead_letter_topic,
            security_protocol=settings.kafka_security_protocol,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            sasl_username=settings.kafka_sasl_username,
            sasl_password=dg.EnvVar(KAFKA_SASL_PASSWORD_VARIABLE) if settings.kafka_sasl_password else "",
            ssl_ca_file=_path(settings.kafka_ssl_ca_file),
            ssl_certificate_file=_path(settings.kafka_ssl_certificate_file),
            ssl_key_file=_path(settings.kafka_ssl_key_file),
            ssl_key_password=dg.EnvVar(KAFKA_SSL_KEY_PASSWORD_VARIABLE) if settings.kafka_ssl_key_password else "",
        ),
        "sql_source": SqlSourceResource(
            query=settings.sql_source_query,
            url=shown_url(sql_source_url, SQL_SOURCE_URL_VARIABLE) if sql_source_url else None,
            update=settings.sql_source_update,
            base_url=settings.sql_source_base_url,
            time_zone=settings.sql_source_time_zone,
            overlap_s=settings.sql_source_overlap_s,
        ),
        "detector": DetectorResource(
            weights=settings.detector_weights,
            cache_dir=str(settings.home / "models"),
            sha256=settings.detector_sha256,
            precision=settings.detector_precision,
            confidence=settings.detector_confidence,
            iou=settings.detector_iou,
            image_size=settings.detector_image_size,
            device=settings.detector_device,
            calibration_dir=str(settings.detector_calibration_dir) if settings.detector_calibration_dir else None,
        ),
        "enhancer": EnhancerResource(
            mode=settings.enhancement_mode,
            background=background(settings),
            method=settings.background_method,
            rembg_model=settings.rembg_model,
            min_dimension=settings.target_min_dimension,
            target_kb=settings.target_kb,
            profile=settings.enhancement_profile,
            box_classes=box_classes(settings),
            box_confidence=settings.enhancement_box_confidence,
            workers=settings.enhancement_workers,
            hour_price=settings.machine_hour_price,
        ),
        "review_policy": ReviewPolicyResource(
            threshold=settings.auto_approve_threshold,
            high_value=settings.high_value_threshold,
            audit_share=settings.audit_share,
        ),
        "classifier": ClassifierResource(
            weights=settings.bottle_weights,
            cache_dir=str(settings.home / "models"),
            sha256=settings.bottle_sha256,
            crop_classes=settings.bottle_crop_classes,
            precision=settings.bottle_precision,
            device=settings.bottle_device,
        ),
        "temple_trainer": temple_trainer(settings),
    }


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def shown_url(url: URL, variable: str) -> str | dg.EnvVar:
    """A database's URL as a resource may hold it: Dagster's UI shows literal values, so no password.

    Args:
        url: The URL.
        variable: The variable of the environment that holds it.

    Raises:
        ValueError: if the URL has a password and is not in the environment; see :func:`settings.export_secrets`.
    """
    text = url.render_as_string(hide_password=False)
    if os.environ.get(variable) == text:
        return dg.EnvVar(variable)
    if url.password:
        raise ValueError(f"A database password must come from the environment: set {variable}.")
    return text
