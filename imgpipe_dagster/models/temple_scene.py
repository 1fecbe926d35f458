"""Whether a picture shows the scene that a category is known for: distances in a space of light-free pictures.

A classifier that knows open and closed doors is sure of itself before a wall, too. So each category keeps a small
linear subspace of its training pictures (their principal components), and a picture's distance from the subspace of the
category that it was given tells whether such a picture was ever seen: the distance from feature space of Moghaddam and
Pentland, "Probabilistic visual learning for object representation", PAMI 1997. The space is not the network's own: a
network that has learnt to tell two doors apart has forgotten everything else about the hall.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_LONGER_SIDE = 48  # pixels; details are the network's affair
_LIGHT_SIGMA = 8.0  # what is smoother than this (in those pixels) is light
_DARK = 0.05  # added before the logarithm, so that sensor noise in the dark stays small
_FAINT = 0.5  # added to the norm, so that a picture without contrast does not become pure noise
_MAX_COMPONENTS = 40
_VARIANCE_KEPT = 0.9


def light_free(pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """What is left of pictures when the light is taken out.

    The logarithm of the luminance without its smooth part: the logarithm turns light into a sum, and light changes
    slowly over a picture (homomorphic filtering; Oppenheim, Schafer and Stockham 1968). Then scaled to about length 1.

    Args:
        pictures: uint8 BGR, (n, height, width, 3).

    Returns:
        float32, (n, number of pixels of the reduced picture).
    """
    height, width = pictures[0].shape[:2]
    scale = min(1.0, _LONGER_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    features = np.empty((len(pictures), size[0] * size[1]), np.float32)
    for index, picture in enumerate(pictures):
        luminance = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)
        logarithm = np.log(luminance.astype(np.float32) / np.float32(255) + np.float32(_DARK))
        detail = logarithm - cv2.GaussianBlur(logarithm, (0, 0), _LIGHT_SIGMA)
        features[index] = detail.ravel() / (np.linalg.norm(detail) + np.float32(_FAINT))
    return features


@dataclass(frozen=True)
class SceneSubspace:
    """What the pictures of one category have in common.

    Attributes:
        mean: float32, (features,).
        components: float32, (components, features), orthonormal rows.
    """

    mean: np.ndarray
    components: np.ndarray

    def distances(self, features: np.ndarray) -> np.ndarray:
        """How far feature vectors lie from the subspace: float32, (n,).

        Args:
            features: float32, (n, features), from :func:`light_free`.
        """
        away = features - self.mean
        within = away @ self.components.T
        squared = np.einsum("nf,nf->n", away, away) - np.einsum("nc,nc->n", within, within)
        return np.sqrt(np.maximum(squared, 0)).astype(np.float32)


def fit_subspace(features: np.ndarray) -> SceneSubspace:
    """The mean and the strongest principal components of some feature vectors, (n, features), n at least 1."""
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, strengths, directions = np.linalg.svd(features - mean, full_matrices=False)
    variance = np.cumsum(strengths.astype(np.float64) ** 2)
    if variance[-1] == 0:
        return SceneSubspace(mean, np.zeros((0, len(mean)), np.float32))
    kept = int(np.searchsorted(variance, _VARIANCE_KEPT * variance[-1])) + 1
    return SceneSubspace(mean, directions[: min(kept, _MAX_COMPONENTS)].astype(np.float32))


def subspaces_to_bytes(subspaces: Sequence[SceneSubspace]) -> bytes:
    """Subspaces as an ``.npz`` file, in their order."""
    arrays = {}
    for number, subspace in enumerate(subspaces):
        arrays[f"mean_{number}"] = subspace.mean
        arrays[f"components_{number}"] = subspace.components
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def subspaces_from_bytes(data: bytes, count: int) -> list[SceneSubspace]:
    """Read what :func:`subspaces_to_bytes` wrote. Objects in the file are refused, whoever wrote it.

    Raises:
        ValueError: It is not such a file.
        KeyError: It holds fewer subspaces.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return [SceneSubspace(arrays[f"mean_{n}"], arrays[f"components_{n}"]) for n in range(count)]
