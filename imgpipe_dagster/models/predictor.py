"""What detectors and classifiers share: names, version, input size, and that they are closed. No inference here."""

from abc import ABC, abstractmethod
from typing import Self


class Predictor(ABC):
    """A loaded model. Safe to share between threads; close it when done.

    Attributes:
        names: Class id to class name, ids from 0 up.
        version: Weights and the settings that change answers, as ``name-fingerprint``.
        image_size: Height and width of the model's input, which a picture is scaled to.
    """

    names: dict[int, str]
    version: str
    image_size: tuple[int, int]

    @abstractmethod
    def close(self) -> None:
        """Free the model."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
