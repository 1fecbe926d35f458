"""One URL to one answer: attempts, waits, redirects, limits, and what each failure is called."""

import asyncio
import errno
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from imgpipe_dagster.fetch.addresses import AddressNotAllowedError
from imgpipe_dagster.fetch.answers import FetchRequest, FetchResult
from imgpipe_dagster.fetch.budget import ByteBudget, Share
from imgpipe_dagster.fetch.policy import FetchPolicy
from imgpipe_dagster.fetch.urls import complete, normalise, redact, scheme_of
from imgpipe_dagster.reasons import Reason

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


Opener = Callable[[str, int], bytes]
"""Reads the file at a URL. The number is how many bytes are wanted at most; of a larger file one more is enough."""


class Downloader:
    """Answers requests over one HTTP session, in that session's event loop.

    Args:
        session: The session; its connector is what keeps forbidden addresses out.
        threads: Where openers run.
        budget: What files may hold of memory; who takes an answer with a file must say so there.
        policy: Limits and manners.
        base_url: Completes requests that are only a file name.
        openers: Functions that fetch the URLs of other schemes; see :func:`imgpipe_dagster.fetch.client.fetch_all`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        threads: Executor,
        budget: ByteBudget,
        policy: FetchPolicy,
        base_url: str | None,
        openers: Mapping[str, Opener],
    ) -> None:
        self._session = session
        self._threads = threads
        self._budget = budget
        self._policy = policy
        self._base_url = base_url
        self._openers = openers

    async def answer(self, request: FetchRequest) -> FetchResult:
        """Fetch one file. A failure is a reason in the result, never an exception."""
        trail = _Trail()
        data = failure = None
        try:
            data = await self._fetch(request.url, trail)
            self._budget.finish(trail.share)
        except _FetchError as error:
            failure = error
            self._budget.drop(trail.share)
        return FetchResult(
            key=request.key,
            url=request.url,
            final_url=redact(trail.url) if trail.url else None,
            data=data,
            reason=failure.reason if failure else None,
            detail=redact(str(failure)) if failure else "",
            status=trail.status,
            attempts=trail.attempts,
            elapsed_s=time.monotonic() - trail.started,
        )

    async def _fetch(self, url: str | None, trail: "_Trail") -> bytes:
        # A missing value of a data frame is not always None.
        text = url.strip() if isinstance(url, str) else ""
        if not text:
            raise _FetchError(Reason.URL_MISSING, "no URL")
        scheme = scheme_of(text)
        if scheme is None:
            if self._base_url is None:
                raise _FetchError(Reason.URL_INVALID, "neither a URL nor, without a base URL, a file name")
            text = complete(text, self._base_url)
        elif scheme in self._openers:
            return await self._open(self._openers[scheme], text, trail)
        return await self._download(_http_url(text), trail)

    async def _open(self, opener: Opener, url: str, trail: "_Trail") -> bytes:
        trail.url, trail.attempts = url, 1
        max_bytes = self._policy.max_bytes
        await self._budget.grow(trail.share, max_bytes)  # how many they are is known when they are there
        opened = asyncio.get_running_loop().run_in_executor(self._threads, opener, url, max_bytes)
        await asyncio.wait({opened}, timeout=self._policy.timeout_s)
        if not opened.done():
            opened.cancel()
            raise _FetchError(Reason.TIMEOUT, f"no file within {self._policy.timeout_s:g} s")
        match opened.exception():
            case None:
                data = opened.result()
            case KeyError() | FileNotFoundError() as error:
                raise _FetchError(Reason.HTTP_NOT_FOUND, str(error))
            case PermissionError() as error:
                raise _FetchError(Reason.ADDRESS_NOT_ALLOWED, str(error))
            case error:
                raise _FetchError(Reason.CONNECT_FAILED, f"{type(error).__name__}: {error}")
        if len(data) > max_bytes:
            raise _too_many_bytes(max_bytes)
        self._budget.shrink(trail.share, len(data))
        return data

    async def _download(self, url: str, trail: "_Trail") -> bytes:
        for attempt in count(1):
            trail.attempts = attempt
            try:
                async with asyncio.timeout(self._policy.timeout_s) as limit:
                    return await self._attempt(url, trail, limit)
            except _FetchError as error:
                failure = error
            except (AddressNotAllowedError, aiohttp.ClientError, OSError, ValueError) as error:
                failure = _explain(error)
            if not failure.retry or attempt == self._policy.attempts:
                raise failure
            self._budget.drop(trail.share)
            await asyncio.sleep(self._pause(attempt, failure.retry_after_s))
        raise AssertionError("unreachable")

    def _pause(self, attempt: int, retry_after_s: float) -> float:
        """Seconds before the next attempt: exponential backoff with full jitter, after what the server asked for."""
        backoff = random.uniform(0, self._policy.backoff_s * 2 ** (attempt - 1))  # noqa: S311 - spreads load, no secret
        return min(retry_after_s + backoff, self._policy.max_retry_after_s)

    async def _attempt(self, url: str, trail: "_Trail", limit: asyncio.Timeout) -> bytes:
        for _ in range(self._policy.max_redirects + 1):
            trail.url = url
            async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
                trail.status = response.status
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    _check_status(response)
                    return await self._read(response, trail.share, limit)
            url = _http_url(urljoin(url, location))
        raise _FetchError(Reason.TOO_MANY_REDIRECTS, f"more than {self._policy.max_redirects} redirects")

    async def _read(self, response: aiohttp.ClientResponse, share: Share, limit: asyncio.Timeout) -> bytes:
        max_bytes = self._policy.max_bytes
        if (response.content_length or 0) > max_bytes:
            raise _too_many_bytes(max_bytes)
        chunks: list[bytes] = []
        async for chunk in response.content.iter_any():
            if share.held + len(chunk) > max_bytes:
                raise _too_many_bytes(max_bytes)
            await self._hold(share, len(chunk), limit)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _hold(self, share: Share, size: int, limit: asyncio.Timeout) -> None:
        """Count bytes that have come. While they wait for room the clock stands: that is not the server's doing."""
        now = asyncio.get_running_loop().time
        ends, began = limit.when() or now(), now()
        limit.reschedule(None)
        await self._budget.grow(share, size)
        limit.reschedule(ends + now() - began)


@dataclass(slots=True)
class _Trail:
    """How far a request has come."""

    started: float = field(default_factory=time.monotonic)
    url: str | None = None
    status: int | None = None
    attempts: int = 0
    share: Share = field(default_factory=Share)


class _FetchError(Exception):
    """Why there is no file, in one line without secrets, and whether another attempt may help."""

    def __init__(self, reason: Reason, detail: str, *, retry: bool = False, retry_after_s: float = 0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retry = retry
        self.retry_after_s = retry_after_s


def _http_url(text: str) -> str:
    if (scheme := scheme_of(text)) not in ("http", "https"):
        raise _FetchError(Reason.URL_SCHEME, f"{scheme} is not fetched")
    try:
        return normalise(text)
    except ValueError as error:
        raise _FetchError(Reason.URL_INVALID, str(error)) from error


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    detail = f"{response.url.host} answered {status}"
    match status:
        case 401 | 403:
            raise _FetchError(Reason.HTTP_FORBIDDEN, detail)
        case 404 | 410:
            raise _FetchError(Reason.HTTP_NOT_FOUND, detail)
        case 408:
            raise _FetchError(Reason.TIMEOUT, detail, retry=True)
        case 429:
            reason = Reason.HTTP_RATE_LIMITED
        case _ if 400 <= status < 500:
            raise _FetchError(Reason.HTTP_CLIENT_ERROR, detail)
        case _:
            reason = Reason.HTTP_SERVER_ERROR
    asked = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
    raise _FetchError(reason, detail, retry=True, retry_after_s=asked)


def parse_retry_after(value: str | None, now: datetime) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3); 0 where it is missing, past or not understood.

    Args:
        value: The header: seconds, or an HTTP date.
        now: The current time, zone-aware.
    """
    if value is None:
        return 0
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds())


def _too_many_bytes(max_bytes: int) -> _FetchError:
    return _FetchError(Reason.TOO_MANY_BYTES, f"more than {max_bytes} bytes")


def _explain(error: Exception) -> _FetchError:
    """Give a failure of the network its reason; the order is from the narrower class to the wider."""
    match error:
        case AddressNotAllowedError():
            return _FetchError(Reason.ADDRESS_NOT_ALLOWED, str(error))
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            return _FetchError(Reason.TLS_FAILED, f"{error.host}: {getattr(cause, 'verify_message', None) or cause}")
        case aiohttp.ClientSSLError():
            return _FetchError(Reason.TLS_FAILED, str(error))
        case aiohttp.ClientConnectorDNSError():
            again = error.os_error.errno == socket.EAI_AGAIN
            return _FetchError(Reason.NAME_NOT_RESOLVED, f"{error.host}: {_why_not(error)}", retry=again)
        case aiohttp.ClientConnectorError():
            return _FetchError(Reason.CONNECT_FAILED, f"{error.host}:{error.port}: {_why_not(error)}", retry=True)
        case aiohttp.ConnectionTimeoutError():
            return _FetchError(Reason.TIMEOUT, "no connection within the time limit", retry=True)
        case TimeoutError():
            return _FetchError(Reason.TIMEOUT, "no whole file within the time limit", retry=True)
        case aiohttp.ClientResponseError():
            return _FetchError(Reason.HTTP_SERVER_ERROR, f"the answer is not HTTP: {error.message}", retry=True)
        case ValueError():
            return _FetchError(Reason.URL_INVALID, "not a valid URL")
        case _:
            return _FetchError(Reason.CONNECTION_LOST, f"{type(error).__name__}: {error}", retry=True)


def _why_not(error: aiohttp.ClientConnectorError) -> str:
    """What the system says of a connection that could not be made, without the library's words around it."""
    cause = error.os_error
    if cause.errno is not None and cause.errno in errno.errorcode:
        return os.strerror(cause.errno)
    return cause.strerror or str(cause)
