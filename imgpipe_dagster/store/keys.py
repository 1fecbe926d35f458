"""Which key an object has. Pure functions; what the keys mean is in the design of the store, nothing is read here."""

import datetime as dt
import hashlib
import re
from typing import Literal

from imgpipe_dagster.store.base import InvalidKeyError

RESERVED_FOLDER = ".incoming"
"""Where a local store keeps files that are still being written."""

STORED_SCHEME = "store"
"""Scheme of an ``image_url`` that names an image in the store itself: ``store:images/frame_000042.jpg``."""

FRAME_PREFIX = "images/frame_"

_FRAME = re.compile(r"images/frame_([0-9]{1,15})\.[A-Za-z0-9]+")
_MAX_KEY_BYTES = 1024  # S3's limit
_MAX_PART_BYTES = 255  # the limit of a file name on Linux
_MAX_NAME_BYTES = 200  # leaves room for an extension
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNSAFE = re.compile(r"^\.|[\x00-\x1f\x7f-\x9f/\\%]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXTENSION = re.compile(r"[a-z0-9]{1,10}")


def check_key(key: str) -> None:
    r"""Refuse keys that could leave the store, or that only one kind of store can hold.

    A key is names joined by ``/``, relative, at most 1024 bytes of UTF-8 with at most 255 a name. No name is empty,
    ``.`` or ``..``; backslashes and control characters are refused.

    Raises:
        InvalidKeyError: The key is refused.
    """
    try:
        parts = [part.encode() for part in key.split("/")]
    except UnicodeEncodeError as error:
        raise InvalidKeyError(f"Store key {key!r} is not valid Unicode.") from error
    if any(part in {b"", b".", b".."} for part in parts):
        raise InvalidKeyError(f"Store key {key!r} must be relative, without empty names, '.' or '..'.")
    if "\\" in key or _CONTROL.search(key):
        raise InvalidKeyError(f"Store key {key!r} has a backslash or a control character.")
    if parts[0] == RESERVED_FOLDER.encode():
        raise InvalidKeyError(f"Store key {key!r} is in the folder that the store keeps for itself.")
    if max(map(len, parts)) > _MAX_PART_BYTES or len(key.encode()) > _MAX_KEY_BYTES:
        raise InvalidKeyError(f"Store key {key[:80]!r}… is too long.")


def is_key(key: str) -> bool:
    """Whether `check_key` accepts the key."""
    try:
        check_key(key)
    except InvalidKeyError:
        return False
    return True


def check_prefix(prefix: str) -> None:
    """Refuse prefixes that are the beginning of no key: the part up to the last ``/`` must be a key.

    Raises:
        InvalidKeyError: The prefix is refused.
    """
    folder, slash, _ = prefix.rpartition("/")
    if slash:
        check_key(folder)


def safe_name(text: str | int) -> str:
    """A text as one name of a key: unsafe characters become ``%XX``, so different texts stay different.

    Letters of all languages are kept. A text of more than 200 bytes is cut and gets its hash.

    Raises:
        InvalidKeyError: The text is empty or not valid Unicode.
    """
    name = _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), str(text))
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise InvalidKeyError(f"{text!r} is not valid Unicode.") from error
    if not encoded:
        raise InvalidKeyError("An empty text is no name in the store.")
    if len(encoded) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[: _MAX_NAME_BYTES - 17].decode(errors='ignore')}-{digest}"


def image_key(sha256: str, extension: str) -> str:
    """Key of an original: ``images/<first two>/<sha256>.<extension>``."""
    if not _SHA256.fullmatch(sha256):
        raise InvalidKeyError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal.")
    return f"images/{sha256[:2]}/{sha256}.{_extension(extension)}"


def stored_image_url(key: str) -> str:
    """The ``image_url`` of an image that is in the store already.

    Raises:
        InvalidKeyError: The key is refused, or not one of an image.
    """
    check_key(key)
    if not key.startswith("images/"):
        raise InvalidKeyError(f"Store key {key!r} is not one of an image: those begin with images/.")
    return f"{STORED_SCHEME}:{key}"


def stored_image_key(url: str) -> str:
    """The key in a URL that `stored_image_url` made; it is taken literally, nothing in it is an escape.

    Raises:
        InvalidKeyError: The URL names no image in the store.
    """
    key = url.removeprefix(f"{STORED_SCHEME}:")
    stored_image_url(key)
    return key


def frame_key(number: int) -> str:
    """Key of an image that came from a folder: ``images/frame_000042.jpg``."""
    return f"{FRAME_PREFIX}{number:06d}.jpg"


def frame_number(key: str) -> int | None:
    """The number in a frame's key, whatever its extension; None for other keys."""
    match = _FRAME.fullmatch(key)
    return int(match[1]) if match else None


def report_name(key: str) -> str | None:
    """The name that the report of a stored image has: ``frame_000042`` for ``images/frame_000042.jpg``.

    Only images that lie directly under ``images/`` have one, and none is all digits: reports of images without a name
    are called by their id.
    """
    name = re.fullmatch(r"images/([^/]+?)(?:\.[^./]*)?", key)
    return None if name is None or name[1].isdecimal() else name[1]


def report_key(image_id: int | str) -> str:
    """Key of an image's report: ``metadata/<image_id>.json``; or by name, for sources whose images have names."""
    return f"metadata/{safe_name(image_id)}.json"


def enhanced_key(image_id: int, fingerprint: str, extension: str) -> str:
    """Key of an enhanced image: ``enhanced/<image_id>/<fingerprint of the configuration>.<extension>``."""
    return f"enhanced/{image_id}/{safe_name(fingerprint)}.{_extension(extension)}"


def result_key(sha256: str, extension: str) -> str:
    """Key of a picture that was enhanced for a caller and belongs to no image: ``results/<sha256>.<extension>``."""
    if not _SHA256.fullmatch(sha256):
        raise InvalidKeyError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal.")
    return f"results/{sha256}.{_extension(extension)}"


def upload_key(day: dt.date, image_id: str, extension: str) -> str:
    """Key of a picture that a client sent to be classified: ``uploads/<day>/<image_id>.<extension>``."""
    return f"uploads/{day.isoformat()}/{safe_name(image_id)}.{_extension(extension)}"


def prefixes_of_image(image_id: int) -> tuple[str, ...]:
    """Prefixes of all keys that an image's id is in: its report, and the pictures made of it."""
    return f"metadata/{image_id}.json", f"annotated/{image_id}.", f"enhanced/{image_id}/"


def training_key(temple_id: int | str, split: Literal["train", "test"], category: str, name: str) -> str:
    """Key of a training image: ``training/<temple_id>/<train|test>/<category>/<name>``."""
    return f"training/{safe_name(temple_id)}/{split}/{safe_name(category)}/{safe_name(name)}"


def models_key(*names: str | int) -> str:
    """Key of a file of a model: ``models/<name>/<name>/…``."""
    return "/".join(["models", *map(safe_name, names)])


def _extension(extension: str) -> str:
    cleaned = extension.lower().removeprefix(".")
    if not _EXTENSION.fullmatch(cleaned):
        raise InvalidKeyError(f"{extension!r} is not a file extension.")
    return cleaned
