"""Which view an address leads to."""

from functools import lru_cache
from typing import Final

from django.urls import ResolverMatch, get_resolver

#: Longer addresses are looked up each time: remembered, a thousand of 60 KB would hold 100 MB for ever.
_REMEMBERED_LENGTH: Final = 200


def resolved(path: str) -> ResolverMatch:
    """The view of a decoded path, with its arguments. Raises `Resolver404`."""
    return _remembered(path) if len(path) <= _REMEMBERED_LENGTH else get_resolver().resolve(path)


@lru_cache(maxsize=1024)
def _remembered(path: str) -> ResolverMatch:
    return get_resolver().resolve(path)
