"""Where a request comes from: the connection's other end, or what a proxy of ours says of it."""

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from django.conf import settings

from shop.web.http import Request

#: Of IPv6, one customer of a provider has at least so large a network (RFC 6177).
_IPV6_PREFIX: Final = 64
#: Addresses that a proxy names; more is nobody's real way through the network.
_HOPS_MAX: Final = 20


def client_address(request: Request) -> str:
    """The address to count a client by: of IPv6 its /64 network, '' where there is none.

    `X-Forwarded-For` is read from its end, and only as far as `TRUSTED_PROXIES` reach: the rest is the client's own word.
    """
    peer = request.peer[0] if request.peer else ""
    address = _normal(peer)
    if _is_trusted(address):
        for hop in reversed(request.header(b"x-forwarded-for").rsplit(",", _HOPS_MAX)[-_HOPS_MAX:]):
            if not (found := _normal(hop.strip())):
                break
            address = found
            if not _is_trusted(address):
                break
    return _network(address)


def _normal(text: str) -> str:
    """An address in its one form, '' where the text is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _network(address: str) -> str:
    if ":" not in address:
        return address
    return str(ip_network(f"{address}/{_IPV6_PREFIX}", strict=False).network_address)


def _is_trusted(address: str) -> bool:
    return bool(address) and any(ip_address(address) in network for network in settings.TRUSTED_PROXIES)
