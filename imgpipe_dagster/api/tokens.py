"""Bearer tokens of an OpenID Connect issuer: its keys, found by discovery, and what a token must say."""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

log = logging.getLogger(__name__)

# Signatures with the issuer's public keys only: "none" is no signature, and HS… would take a public key as a secret.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_LEEWAY_S = 30
_KEYS_KEPT_S = 3600.0
_KEYS_ASKED_EVERY_S = 10.0  # a token with an unknown key makes us ask, and anybody can make one up
_LONGEST_TOKEN = 16 * 1024
_LONGEST_DOCUMENT = 1024 * 1024


class TokenRefusedError(Exception):
    """The token is not accepted; the message says why, without the token."""


class IssuerAwayError(Exception):
    """The issuer's keys cannot be had now."""


class TokenVerifier:
    """Verifies tokens of one issuer for one audience.

    Args:
        issuer: The issuer's URL, exactly as its tokens name it.
        audience: What a token must be for.
        session: For discovery and keys.
    """

    def __init__(self, issuer: str, audience: str, session: aiohttp.ClientSession) -> None:
        self._issuer = issuer
        self._session = session
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self._keys: KeySet | None = None
        self._keys_taken = float("-inf")
        self._keys_asked = float("-inf")
        self._asking = asyncio.Lock()

    async def verify(self, token: str) -> Mapping[str, Any]:
        """The claims of a token that is genuine, current and meant for us.

        Raises:
            TokenRefusedError: It is not.
            IssuerAwayError: That cannot be known now.
        """
        if len(token) > _LONGEST_TOKEN:
            raise TokenRefusedError("the token is too long")
        try:
            decoded = self._decode(token, await self._current_keys())
        except (JoseError, ValueError) as error:
            fresh = await self._keys_after_a_change()
            if fresh is None:
                raise TokenRefusedError(_reason(error)) from error
            try:
                decoded = self._decode(token, fresh)
            except (JoseError, ValueError) as again:
                raise TokenRefusedError(_reason(again)) from again
        try:
            self._claims.validate(decoded.claims)
        except JoseError as error:
            raise TokenRefusedError(_reason(error)) from error
        return decoded.claims

    def _decode(self, token: str, keys: KeySet) -> jwt.Token:
        return jwt.decode(token, keys, algorithms=_ALGORITHMS)

    async def _current_keys(self) -> KeySet:
        if self._keys is None or time.monotonic() - self._keys_taken > _KEYS_KEPT_S:
            await self._ask()
        if self._keys is None:
            raise IssuerAwayError(f"The keys of {self._issuer} cannot be read.")
        return self._keys

    async def _keys_after_a_change(self) -> KeySet | None:
        """The keys as they are now, if they were not asked for a moment ago: issuers change theirs."""
        before = self._keys_taken
        await self._ask()
        return self._keys if self._keys_taken != before else None

    async def _ask(self) -> None:
        async with self._asking:
            now = time.monotonic()
            if now - self._keys_asked < _KEYS_ASKED_EVERY_S:
                return
            self._keys_asked = now
            try:
                self._keys = KeySet.import_key_set(await self._read_keys())
                self._keys_taken = now
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, JoseError) as error:
                log.warning("The keys of %s cannot be read: %s", self._issuer, error)

    async def _read_keys(self) -> Any:  # noqa: ANN401 - whatever the issuer says; the import checks it
        found = await self._read(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != self._issuer:
            raise ValueError(f"the discovery document is that of {found.get('issuer')!r}")
        return await self._read(str(found["jwks_uri"]))

    async def _read(self, url: str) -> dict[str, Any]:
        async with self._session.get(url, allow_redirects=False) as answer:
            answer.raise_for_status()
            text = b""
            async for chunk in answer.content.iter_any():
                text += chunk
                if len(text) > _LONGEST_DOCUMENT:
                    raise ValueError(f"{url} is too long")
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError(f"{url} is not a JSON object")  # noqa: TRY004 - one kind of error for bad documents
        return document


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
