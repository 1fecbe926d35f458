"""From what a row says to a valid URL. Pure text work, no network."""

import re
import socket
from ipaddress import IPv6Address
from urllib.parse import quote, urlsplit, urlunsplit

from yarl import URL

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CREDENTIALS = re.compile(r"(?<=//)[^/?#\s]*@")
# What RFC 3986 lets stand in each part; quote() never touches letters, digits and "_.-~".
_USERINFO_SAFE = "%!$&'()*+,;=:"
_PATH_SAFE = "%!$&'()*+,;=:@/"
_QUERY_SAFE = "%!$&'()*+,;=:@/?"
_HOST = re.compile(r"[a-z0-9._-]+")
# A host that ends in a number is an IPv4 address in one of inet_aton's notations (url.spec.whatwg.org/#host-parsing).
_ENDS_IN_NUMBER = re.compile(r"(^|\.)([0-9]+|0[xX][0-9A-Fa-f]*)\.?$")


def scheme_of(text: str) -> str | None:
    """The scheme that a URL begins with, in lower case; None for text without one, such as a file name."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else None


def complete(name: str, base_url: str) -> str:
    """The URL of a file that is known by its name only.

    Args:
        name: A file name, with or without folders. It is taken literally: ``50%.jpg`` and ``a#1.jpg`` are names.
        base_url: The URL that it is put behind, with a slash between.
    """
    separator = "" if base_url.endswith(("/", "=")) else "/"
    return base_url + separator + quote(name.lstrip("/"))


def normalise(url: str) -> str:
    """Make a valid http or https URL of one that people wrote, without changing what is valid in it.

    Spaces, other characters than ASCII and lone percent signs are percent-encoded, escapes stay as they are, the host
    becomes ASCII (IDNA), an IPv4 address in an odd notation (``2130706433``, ``0x7f.1``) its usual one, and the
    fragment goes.

    Args:
        url: A URL with a scheme; white space around it is ignored.

    Raises:
        ValueError: It has no host, an impossible port or address, or control characters.
    """
    url = url.strip()
    if _CONTROL.search(url):
        raise ValueError("control character in the URL")
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:  # its message may hold a password
        raise ValueError("not a valid URL") from None
    if not parts.hostname or "\\" in parts.netloc:  # browsers end the host at a backslash, others do not
        raise ValueError("no host in the URL")
    userinfo, at, _ = parts.netloc.rpartition("@")
    host = _normalise_host(parts.hostname)
    netloc = _quote(userinfo, _USERINFO_SAFE) + at + host + port
    path = _quote(parts.path, _PATH_SAFE) or "/"
    return urlunsplit((parts.scheme, netloc, path, _quote(parts.query, _QUERY_SAFE), ""))


def redact(text: str) -> str:
    """The text with the credentials of every URL in it hidden."""
    return _CREDENTIALS.sub("***@", text)


def _normalise_host(host: str) -> str:
    if ":" in host:
        return f"[{IPv6Address(host)}]"
    ascii_host = URL.build(scheme="http", host=host).raw_host or ""
    if not _HOST.fullmatch(ascii_host):
        raise ValueError(f"{host} is not a host name")
    if not _ENDS_IN_NUMBER.search(ascii_host):
        return ascii_host
    try:
        return socket.inet_ntoa(socket.inet_aton(ascii_host.rstrip(".")))
    except OSError:
        raise ValueError(f"{host} is not an address") from None


def _quote(text: str, safe: str) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe)
