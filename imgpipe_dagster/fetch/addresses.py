"""The address guard: connections go to public unicast addresses, or to networks that the operator named.

The check is made on the very address that the socket is about to connect to, so nothing that a name server, a redirect
or an odd notation says in between can change it.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

# The special-purpose registries of IANA (iana.org/assignments/iana-ipv4-special-registry and -ipv6-), taken whole:
# an entry that is "globally reachable" there (anycast relays, AS112 sinks) serves no pictures either.
_SPECIAL_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this network": 0.0.0.0 connects to the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform agent: answers only inside a virtual machine
        "169.254.0.0/16",  # link-local: cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
    )
)
# Outside 2000::/3 nothing is global unicast. That leaves out ::/96, ::ffff:0:0/96, ::ffff:0:0:0/96 and the NAT64
# prefixes 64:ff9b::/96 and 64:ff9b:1::/48, all of which carry an IPv4 address that would go unchecked.
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 carries an IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",  # documentation
    )
)


class AddressNotAllowedError(Exception):
    """A host has no address that may be connected to."""


def is_allowed(address: str | IPv4Address | IPv6Address, allow_networks: Sequence[str] = ()) -> bool:
    """Whether a connection to this address may be made.

    Args:
        address: An IP address; text in anything but its usual notation is refused.
        allow_networks: Networks in CIDR notation that are allowed although they are not public.

    Returns:
        True if the address is public unicast or in one of the networks.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if any(ip in network for network in _parse_networks(tuple(allow_networks))):
        return True
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _SPECIAL_V4)
    # A zone ("%eth0") names an interface of this machine.
    return ip.scope_id is None and ip in _GLOBAL_UNICAST_V6 and not any(ip in network for network in _SPECIAL_V6)


@lru_cache
def _parse_networks(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(network) for network in networks)


def guarded_connector(allow_networks: Sequence[str], connections: int, threads: Executor) -> aiohttp.TCPConnector:
    """A connector that reaches allowed addresses only; call it inside a running event loop.

    Names are resolved in ``threads``. A connection that cannot be made for its address raises
    :class:`AddressNotAllowedError` from the request.

    Args:
        allow_networks: As in :func:`is_allowed`.
        connections: Most connections at once.
        threads: Where the blocking name lookups run.
    """

    def make_socket(address_info: tuple) -> socket.socket:
        # aiohttp asks no resolver about a literal address; every connection passes here.
        family, kind, protocol, _, address = address_info
        if not is_allowed(address[0], allow_networks):
            raise AddressNotAllowedError(f"{address[0]} is not a public address")
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        limit=connections,
        resolver=_GuardedResolver(allow_networks, threads),
        ttl_dns_cache=60,
        socket_factory=make_socket,
    )


class _GuardedResolver(AbstractResolver):
    """Resolves a name to those of its addresses that are allowed, so that one forbidden address does not spoil it."""

    def __init__(self, allow_networks: Sequence[str], threads: Executor) -> None:
        self._allow_networks = allow_networks
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        infos = await asyncio.get_running_loop().run_in_executor(
            self._threads, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
        )
        found = {str(info[4][0]): info[0] for info in infos}
        allowed = {address: kind for address, kind in found.items() if is_allowed(address, self._allow_networks)}
        if not allowed:
            raise AddressNotAllowedError(f"{host} is {', '.join(found)}: not a public address")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for address, kind in allowed.items()
        ]

    async def close(self) -> None:
        """Nothing to release: the threads belong to the caller."""
