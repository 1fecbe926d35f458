"""Which code and libraries made an enhanced picture. Nothing else."""

import hashlib
import importlib.metadata

import cv2
import PIL

from imgpipe_dagster.imaging.background import BackgroundMethod
from imgpipe_dagster.imaging.modes import EnhancementConfig

CODE_VERSION = 6
"""To be raised with every change after which the same file and configuration give other bytes or another score."""


def enhancement_version(config: EnhancementConfig) -> str:
    """What made a picture, as ``enhance-<how>-<configuration>``: both parts are short fingerprints.

    The first is one of the code's version and the versions of OpenCV, Pillow and, where it finds the product, rembg:
    pictures with another first part were made by other code. The second is ``EnhancementConfig.fingerprint``.
    """
    parts = [str(CODE_VERSION), cv2.__version__, PIL.__version__]
    if config.method is BackgroundMethod.REMBG:
        parts.append(_installed("rembg"))
    return f"enhance-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}-{config.fingerprint}"


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
