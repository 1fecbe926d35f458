"""From a Kafka message's bytes to a row to import, or the reason why it is poison. Pure: no Kafka, no SQL."""

import json
from typing import Any
from urllib.parse import unquote

from imgpipe_dagster.catalogue.import_files import ImportRow
from imgpipe_dagster.fetch.urls import normalise, scheme_of
from imgpipe_dagster.imaging.modes import Mode
from imgpipe_dagster.store.keys import report_name, stored_image_key, stored_image_url

SOURCE = "kafka"
MAX_MESSAGE_BYTES = 64 * 1024
"""A message names an image and does not hold one: a larger one is not even parsed."""

_TEXTS = ("sku_id", "temple_id", "product_group_id", "image_type")


class PoisonError(ValueError):
    """No row can be made of the message, however often it is delivered; the text says why."""


def to_import_row(value: bytes | None, *, source_ref: str, source_key: str, store_url: str) -> ImportRow:
    """The row that a message announces.

    Args:
        value: The message: a JSON object with ``image_path`` or ``image_url``, and any of ``sku_id``, ``temple_id``,
            ``product_group_id``, ``image_type``, ``mode``. Other keys are left alone.
        source_ref: Where it lies, for people.
        source_key: What makes it the same message when it is delivered again.
        store_url: The store, whose own images are read by key.

    Raises:
        PoisonError: It is none of that.
    """
    fields = _parse(value)
    path, url = _text(fields, "image_path"), _text(fields, "image_url")
    if (path is None) == (url is None):
        raise PoisonError("it has neither image_path nor image_url" if path is None else "it has two images")
    mode = _text(fields, "mode")
    if mode is not None and mode not in list(Mode):
        raise PoisonError(f"mode {mode[:50]!r} is not one of {', '.join(Mode)}")
    try:
        image_url = resolve_path(path, store_url) if path is not None else _http_url(str(url))
        return ImportRow(
            image_url,
            source=SOURCE,
            source_ref=source_ref,
            source_key=source_key,
            report_name=_report_name(image_url),
            enhancement_mode=mode,
            sku_id=fields.get("sku_id"),
            temple_id=fields.get("temple_id"),
            product_group_id=fields.get("product_group_id"),
            image_type=fields.get("image_type") or "",
        )
    except ValueError as error:
        raise PoisonError(str(error)) from error


def resolve_path(path: str, store_url: str) -> str:
    """The ``image_url`` of an ``image_path``.

    Args:
        path: An http, https or s3 URL, or a key in the store: ``images/frame_000042.jpg``, also without ``images/``.
        store_url: The store; an s3 URL of one of its images is that image's key.

    Raises:
        ValueError: It is none of these.
    """
    match scheme_of(path):
        case "http" | "https":
            return normalise(path)
        case "s3":
            own = f"{store_url.rstrip('/')}/images/"
            return stored_image_url(f"images/{unquote(path.removeprefix(own))}") if path.startswith(own) else path
        case None:
            return stored_image_url(path if path.startswith("images/") else f"images/{path}")
        case scheme:
            raise ValueError(f"image_path begins with {scheme}: where only http, https, s3 and keys are read")


def _http_url(url: str) -> str:
    if scheme_of(url) not in ("http", "https"):
        raise ValueError("image_url is not an http or https URL")
    return normalise(url)


def _report_name(image_url: str) -> str | None:
    return report_name(stored_image_key(image_url)) if image_url.startswith("store:") else None


def _parse(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise PoisonError("it has no value")
    if len(value) > MAX_MESSAGE_BYTES:
        raise PoisonError(f"it has {len(value)} bytes, {MAX_MESSAGE_BYTES} are allowed")
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise PoisonError(f"it is not JSON: {str(error)[:200]}") from error
    if not isinstance(fields, dict):
        raise PoisonError(f"it is {_kind(fields)}, not an object")
    for name in _TEXTS:
        if isinstance(fields.get(name), bool | float | list | dict):
            raise PoisonError(f"{name} is {_kind(fields[name])}, not a text")
    return fields


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise PoisonError(f"{name} is {_kind(value)}, not a text")
    return value.strip() or None if value else None


def _kind(value: object) -> str:
    """What a value of JSON is, for people."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
