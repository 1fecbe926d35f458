"""Who may: from a request's key, token or address to who it is, what that allows, and whether it comes too often."""

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from limits import parse
from starlette.requests import Request

from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.rates import RateLimiter
from imgpipe_dagster.api.tokens import IssuerAwayError, TokenRefusedError, TokenVerifier
from imgpipe_dagster.catalogue.api_keys import KEY_PREFIX, KnownKey, digest
from imgpipe_dagster.settings import API_SCOPES, Settings

log = logging.getLogger(__name__)

KEY_FRESH_S = 1.0
"""How long a key that was looked up counts as known: a revoked one is refused after that at the latest."""

_KEYS_REMEMBERED = 1000
_FAILURES = parse("20/minute")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="imgpipe"'}
_SCOPE_PREFIX = "imgpipe:"


class Scope(StrEnum):
    """What a key or token may allow."""

    READ = "read"
    WRITE = "write"
    REVIEW = "review"
    TRAIN = "train"


@dataclass(frozen=True)
class Principal:
    """Who is calling.

    Attributes:
        id: The same for all requests of one caller: ``key:7``, ``user:<id>``, ``address:10.1.2.3``.
        name: For people and logs.
        scopes: What the caller may do.
        user_id: The row of ``users``, if there is one.
    """

    id: str
    name: str
    scopes: frozenset[str]
    user_id: str | None = None


class Gate:
    """Lets requests in, or refuses them: 401, 403, 429.

    Args:
        settings: Networks, hosts, grants.
        find_key: Looks an active key up.
        user_id_of: The user of an e-mail address, made when first seen.
        any_key: Whether any key is active.
        tokens: For bearer tokens, if an issuer is set.
        limiter: How often one caller may come.
        is_local: Nobody has a key and there is no issuer: whoever is on this machine may do everything.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        find_key: Callable[[str], Awaitable[KnownKey | None]],
        user_id_of: Callable[[str], Awaitable[str]],
        any_key: Callable[[], Awaitable[bool]],
        tokens: TokenVerifier | None,
        limiter: RateLimiter,
        is_local: bool,
    ) -> None:
        self._settings = settings
        self._find_key = find_key
        self._user_id_of = user_id_of
        self._any_key = any_key
        self._tokens = tokens
        self._limiter = limiter
        self._is_local = is_local
        self._local_until = 0.0
        self._networks = [ip_network(network) for network in settings.api_open_networks]
        self._known: OrderedDict[str, tuple[float, KnownKey | None]] = OrderedDict()
        self._user_ids: OrderedDict[str, str] = OrderedDict()

    async def admit(self, request: Request, scope: Scope, *, is_old_path: bool) -> Principal:
        """Who is calling, if they may.

        Args:
            request: The request, which learns who calls; its body is not looked at.
            scope: What the path needs.
            is_old_path: The path is one of the older systems', which open networks reach without a key.

        Raises:
            Refusal: 401, 403 or 429; 503 where the issuer's keys cannot be had.
        """
        address = request.client.host if request.client else "unknown"
        credential = _credential(request)
        if credential is None:
            principal = await self._by_address(request, address, scope, is_old_path=is_old_path)
        else:
            principal = await self._by_credential(credential, address)
        request.scope["state"]["principal"] = principal
        wait_s = await self._limiter.wait_s(principal.id)
        if wait_s is not None:
            raise Refusal(Code.RATE_LIMITED, "Rate limit exceeded.", retry_after_s=wait_s)
        if scope not in principal.scopes:
            raise Refusal(Code.NOT_ALLOWED, f"This needs the scope {scope}; {principal.name} has not got it.")
        return principal

    async def _by_credential(self, credential: str, address: str) -> Principal:
        try:
            if credential.startswith(KEY_PREFIX):
                return await self._by_key(credential)
            return await self._by_token(credential)
        except TokenRefusedError as error:
            # Guessing is slow; a caller whose key is good is not held up by others at the same address.
            wait_s = await self._limiter.wait_under(_FAILURES, f"failures:{address}")
            if wait_s is not None:
                raise Refusal(Code.RATE_LIMITED, "Too many refused keys.", retry_after_s=wait_s) from error
            raise Refusal(Code.NOT_AUTHENTICATED, f"Refused: {error}.", headers=_CHALLENGE) from error
        except IssuerAwayError as error:
            raise Refusal(Code.UNAVAILABLE, str(error), retry_after_s=10) from error

    async def _by_key(self, key: str) -> Principal:
        now = time.monotonic()
        looked_up, known = self._known.get(digest(key), (float("-inf"), None))
        if now - looked_up > KEY_FRESH_S:
            known = await self._find_key(key)
            _remember(self._known, digest(key), (now, known))
        if known is None:
            raise TokenRefusedError("the key is unknown, expired or revoked")
        return Principal(f"key:{known.id}", f"the key {known.name!r}", frozenset(known.scopes), known.user_id)

    async def _by_token(self, token: str) -> Principal:
        if self._tokens is None:
            raise TokenRefusedError("it is no key of this server, and no issuer of tokens is set")
        claims = await self._tokens.verify(token)
        email = claims.get("email") if claims.get("email_verified") is True else None
        subject = str(claims["sub"])
        name = str(email) if email else f"{subject}@{urlsplit(self._settings.oidc_issuer or '').hostname}"
        if name not in self._user_ids:
            _remember(self._user_ids, name, await self._user_id_of(name[:190]))
        user_id = self._user_ids[name]
        return Principal(f"user:{user_id}", name, scopes_of(claims, self._settings.oidc_grants), user_id)

    async def _by_address(self, request: Request, address: str, scope: Scope, *, is_old_path: bool) -> Principal:
        here = f"address:{address}"
        if self._is_local and _is_loopback(address) and await self._is_still_local():
            _refuse_borrowed_address(request, self._settings)
            return Principal(here, "this machine", frozenset(API_SCOPES))
        if is_old_path and self._is_open_to(address):
            _refuse_borrowed_address(request, self._settings)
            return Principal(here, f"the open network of {address}", frozenset({scope}))
        detail = "Send a key or a token: Authorization: Bearer …, or X-API-Key."
        raise Refusal(Code.NOT_AUTHENTICATED, detail, headers=_CHALLENGE)

    async def _is_still_local(self) -> bool:
        """Whether there is still no key. Once there was one, the door stays shut: proxies make all clients local."""
        now = time.monotonic()
        if now > self._local_until:
            self._is_local = not await self._any_key()
            self._local_until = now + KEY_FRESH_S
        return self._is_local

    def _is_open_to(self, address: str) -> bool:
        ip = _ip(address)
        return ip is not None and any(ip in network for network in self._networks)


def scopes_of(claims: Mapping[str, Any], grants: Mapping[str, list[str]]) -> frozenset[str]:
    """What a token allows: the scopes that it names itself, and what the settings grant its owner.

    Args:
        claims: Of a verified token. ``scope`` (a text with spaces), ``scp`` and ``roles`` (lists) are read; an e-mail
            address counts only if the issuer says that it is verified.
        grants: Scopes by e-mail address, ``@domain``, subject or ``*``.
    """
    named: set[str] = set()
    for claim in ("scope", "scp", "roles"):
        value = claims.get(claim)
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        named |= {word.removeprefix(_SCOPE_PREFIX) for word in words if str(word).startswith(_SCOPE_PREFIX)}
    owners = ["*", str(claims.get("sub"))]
    email = claims.get("email")
    if isinstance(email, str) and claims.get("email_verified") is True:
        owners += [email, "@" + email.rpartition("@")[2]]
    granted = {scope for owner in owners for scope in grants.get(owner, ())}
    return frozenset((named | granted) & set(API_SCOPES))


def _credential(request: Request) -> str | None:
    key = request.headers.get("x-api-key")
    if key:
        return key.strip()
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if not kind:
        return None
    if kind.lower() != "bearer" or not value.strip():
        raise Refusal(Code.NOT_AUTHENTICATED, "The Authorization header is not of the kind Bearer.", headers=_CHALLENGE)
    return value.strip()


def _refuse_borrowed_address(request: Request, settings: Settings) -> None:
    """Refuse what a web page makes a browser do from an address that is trusted.

    A page of another site says so in Origin or Sec-Fetch-Site. A page whose own name was pointed at this server
    (DNS rebinding) gives itself away by the Host that it asks for.
    """
    host = request.headers.get("host", "")
    name = _host_name(host)
    if not (_ip(name) or name == "localhost" or "." not in name or name in settings.api_hosts):
        raise Refusal(Code.NOT_ALLOWED, f"Without a key, {name} is no name of this server (IMGPIPE_API_HOSTS).")
    origin = request.headers.get("origin")
    if origin in settings.api_cors_origins:
        return
    is_foreign = origin is not None and origin.partition("://")[2] != host
    if is_foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Refusal(Code.NOT_ALLOWED, "Web pages of other sites may not call this server without a key.")


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        raise Refusal(Code.MALFORMED_REQUEST, "The Host header is not a host.") from None


def _is_loopback(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and ip.is_loopback


def _ip(text: str) -> Any:  # noqa: ANN401 - either kind of address
    try:
        ip = ip_address(text.strip("[]"))
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _remember(cache: OrderedDict[str, Any], name: str, value: object) -> None:
    cache[name] = value
    cache.move_to_end(name)
    if len(cache) > _KEYS_REMEMBERED:
        cache.popitem(last=False)
