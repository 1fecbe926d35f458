"""What the sources have in common: how they fail, what a reading of one gives, what they announce. No reading here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imgpipe_dagster.catalogue.imports import ImportReport


class SourceError(RuntimeError):
    """A source cannot be read; the message says why and what to do, without secrets."""


@dataclass(frozen=True)
class Taken:
    """What one reading of a source gave.

    Attributes:
        report: What became of the rows.
        finished: Whether the source was read to its end; otherwise the next reading goes on.
    """

    report: ImportReport = field(default_factory=ImportReport)
    finished: bool = True


@dataclass(frozen=True)
class WrittenBack:
    """What became of the answers that a source was to be told.

    Attributes:
        told: How many it was told.
        refused: How many it refused just now; they are not tried again by themselves.
    """

    told: int = 0
    refused: int = 0


def add_reports(one: ImportReport, other: ImportReport, *, max_bad: int = 100) -> ImportReport:
    """Both reports as one; of the bad rows the first ``max_bad`` are kept."""
    return ImportReport(
        one.read + other.read,
        one.inserted + other.inserted,
        one.known + other.known,
        one.rejected + other.rejected,
        (*one.bad, *other.bad)[:max_bad],
    )


@dataclass(frozen=True)
class Frame:
    """An image of a folder that is in the store."""

    sha256: str
    key: str
    sku_id: str | None
    temple_id: str | None


class Announce(Protocol):
    """Tells whoever processes images that these are in the store; done when it returns."""

    def __call__(self, frames: Sequence[Frame]) -> None:
        """Tell of these images."""
        ...
