"""What goes into the fetcher and what comes out. Plain data, no network."""

from dataclasses import dataclass

from imgpipe_dagster.reasons import Reason


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One file to get.

    Attributes:
        key: The caller's own number for it, such as the image's id; it comes back in the result.
        url: A URL, or a bare file name where there is a base URL, or None.
    """

    key: int
    url: str | None


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The one answer to a :class:`FetchRequest`: the file, or the reason why there is none.

    Attributes:
        key: The request's key.
        url: The request's URL, as it was given.
        final_url: Where the last attempt ended after redirects, valid and without credentials; None if it never began.
        data: The whole file (it may have no bytes), or None if there is a reason.
        reason: Why there is no file, or None.
        detail: One line on the failure for people, without credentials; empty if there is a file.
        status: The last HTTP status that came, if any.
        attempts: Attempts made; 0 if the URL was refused before any.
        elapsed_s: Seconds from the first attempt to the answer, waits included.
    """

    key: int
    url: str | None
    final_url: str | None
    data: bytes | None
    reason: Reason | None
    detail: str
    status: int | None
    attempts: int
    elapsed_s: float
