"""The address guard as a pure function."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe_dagster.fetch.addresses import is_allowed

HOSTILE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", HOSTILE)
def test_a_hostile_literal_is_refused(address):
    assert not is_allowed(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "172.32.0.1", "223.255.255.254", "2606:4700:4700::1111"])
def test_a_public_address_is_allowed(address):
    assert is_allowed(address)


@pytest.mark.parametrize("text", ["", "2130706433", "0x7f.1", "127.1", "8.8.8", "010.8.8.8", "localhost", "8.8.8.8/32"])
def test_text_that_is_not_a_plain_address_is_refused(text):
    assert not is_allowed(text)


def test_a_named_network_is_allowed_and_its_neighbour_is_not():
    assert is_allowed("10.1.2.3", ["10.1.0.0/16"])
    assert not is_allowed("10.2.0.1", ["10.1.0.0/16"])
    assert is_allowed("fd00::1", ["10.1.0.0/16", "fd00::/64"])


def test_a_named_ipv4_network_does_not_open_the_ipv6_forms_of_its_addresses():
    assert not is_allowed("::ffff:10.1.2.3", ["10.1.0.0/16"])


def not_public(address):
    return any(
        (
            address.is_private,
            address.is_loopback,
            address.is_link_local,
            address.is_multicast,
            address.is_reserved,
            address.is_unspecified,
        )
    )


@given(st.ip_addresses())
def test_no_private_address_is_ever_allowed(address):
    assert not (is_allowed(address) and not_public(address))


@given(st.ip_addresses(v=4).filter(not_public))
def test_no_ipv6_form_of_a_private_ipv4_address_is_ever_allowed(address):
    number = int(address)
    forms = [
        number,  # compatible
        0xFFFF << 32 | number,  # mapped
        0xFFFF << 48 | number,  # translated
        0x64FF9B << 96 | number,  # NAT64
        0x64FF9B0001 << 80 | number,  # local NAT64
        0x2002 << 112 | number << 80 | 1,  # 6to4
        0x20010000 << 96 | number << 64 | 1,  # Teredo server
        0x20010000 << 96 | number ^ 0xFFFFFFFF,  # Teredo client
    ]
    assert [str(form) for form in map(ipaddress.IPv6Address, forms) if is_allowed(form)] == []
