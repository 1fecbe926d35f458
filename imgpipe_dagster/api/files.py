"""A file that a client sent or named, opened where decoding cannot harm this process, or how it is refused."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.fetch.answers import FetchResult
from imgpipe_dagster.imaging.validate import Validator, Verdict
from imgpipe_dagster.reasons import Reason

log = logging.getLogger(__name__)

_OF_OUR_NETWORK = frozenset(
    {Reason.ADDRESS_NOT_ALLOWED, Reason.NAME_NOT_RESOLVED, Reason.CONNECT_FAILED, Reason.CONNECTION_LOST}
)
"""Reasons whose details tell addresses, and so what this server's names and networks are like."""


@contextmanager
def opened(validator: Validator, data: bytes) -> Iterator[tuple[Verdict, np.ndarray]]:
    """Let a child process examine and decode a file. It blocks: call it in a thread.

    Yields:
        The verdict, and the pixels: uint8 (height, width, 3), BGR, upright. They are gone after the block, which keeps
        the child from its next file.

    Raises:
        Refusal: 413, 415 or 422, and why.
    """
    with validator.decoded(data) as (verdict, image):
        if verdict.reason is not None:
            raise Refusal(_code(verdict.reason), f"{verdict.reason.advice} ({verdict.reason}: {verdict.detail})")
        if image is None:
            raise RuntimeError("a trusted file came without its pixels")
        yield verdict, image


def fetched(result: FetchResult) -> bytes:
    """The bytes of a file that was fetched. Which addresses a name has here is for the log only.

    Raises:
        Refusal: 413 or 422, and why there are none.
    """
    if result.data is None:
        reason = result.reason or Reason.CONNECT_FAILED
        code = Code.BODY_TOO_LARGE if reason is Reason.TOO_MANY_BYTES else Code.NOT_FETCHED
        log.info("not fetched: %s: %s", reason, ascii(result.detail))
        told = reason if reason in _OF_OUR_NETWORK else f"{reason}: {result.detail}"
        raise Refusal(code, f"{reason.advice} ({told})")
    return result.data


def _code(reason: Reason) -> Code:
    match reason:
        case Reason.NOT_AN_IMAGE | Reason.UNSUPPORTED_FORMAT:
            return Code.UNSUPPORTED_MEDIA_TYPE
        case Reason.TOO_MANY_PIXELS | Reason.DECODE_MEMORY:
            return Code.TOO_MANY_PIXELS
        case _:
            return Code.UNDECODABLE_IMAGE
