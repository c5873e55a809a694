"""API clients: who calls, and what the key allows.

PostgreSQL keeps the keys; Redis knows them too, so that orders are taken while PostgreSQL is away. Both hold only the
SHA-256 of a key: keys are 256 random bits, so a slow hash would protect nothing.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from django.db.models import QuerySet
from django.utils import timezone

from shop import keys
from shop.domain import OWN_CLIENTS
from shop.models import ApiKey
from shop.round_trips import RoundTrips
from shop.stores import StoreUnavailable, redis_client, store_faults, web_database, web_redis

SCOPES = ("orders", "stock")
#: A client's name: part of Redis keys, in which a colon would end it.
NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
_NAME = re.compile(NAME_PATTERN)
#: How long a web process relies on what it has read. A revoked key ends within this time.
MEMORY_S = 2.0
#: A revocation is remembered in Redis longer than any request that read the key before it may take.
_REVOKED = "revoked"


class Client(msgspec.Struct, frozen=True):
    """Who calls: a name that owns orders, and the scopes of the key used."""

    name: str
    scopes: tuple[str, ...]


def digest(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def name_refusal(client: str) -> str:
    """Why no key can be made for a client of this name; empty where one can."""
    if not _NAME.fullmatch(client):
        return "A client's name is 1 to 64 letters, digits, '.', '_' or '-'."
    # In any case of letters, because people would take one for the other.
    return f"{client} is a name of the shop itself: choose another." if client.lower() in OWN_CLIENTS else ""


def own_names_with_keys() -> list[str]:
    """The shop's own names that a key is good for, made before they were refused."""
    alive = ApiKey.objects.filter(client__in=OWN_CLIENTS, revoked_at=None)
    return list(alive.order_by("client").values_list("client", flat=True).distinct())


def create_key(client: str, scopes: Sequence[str]) -> str:
    """Make a new key for a client and return it; it can't be shown again. Redis learns it first here, then by itself.

    Raises ValueError for a client's name that is not allowed.
    """
    if refusal := name_refusal(client):
        raise ValueError(refusal)
    key = f"rsv_{secrets.token_urlsafe(32)}"
    ApiKey.objects.create(digest=digest(key), client=client, scopes=list(scopes))
    # The key is good already, and would be lost with the error: the sweeper publishes it as soon as Redis is back.
    with suppress(StoreUnavailable):
        publish_keys()
    return key


def revoke_keys(client: str, *, keep_newest: bool = False) -> int:
    """End all keys of a client, or all but the newest that is alive; returns how many.

    Raises `StoreUnavailable` with nothing changed when Redis is away.
    """
    chosen = ApiKey.objects.filter(client=client)
    alive = chosen.filter(revoked_at=None).order_by("-created_at")
    if keep_newest and (newest := alive.first()):
        chosen = chosen.exclude(digest=newest.digest)
    return _revoke(chosen)


def revoke_key(digested: str) -> bool:
    """End one key, named by its digest; False where it had ended. Raises `StoreUnavailable` as `revoke_keys` does."""
    return _revoke(ApiKey.objects.filter(digest=digested)) > 0


def _revoke(chosen: QuerySet[ApiKey]) -> int:
    """End keys; returns how many were alive.

    Redis first, and as a word rather than by deleting: a web process that read the key a moment ago and is about to write it
    back must not bring it to life again.
    """
    alive = chosen.filter(revoked_at=None)
    with store_faults():
        for key in alive:
            redis_client().set(keys.api_key(key.digest), _REVOKED)
        return alive.update(revoked_at=timezone.now())


def publish_keys() -> None:
    """Tell Redis every key that PostgreSQL has."""
    with store_faults():
        for key in ApiKey.objects.all():
            revoked = key.revoked_at is not None
            # What was read as valid may have been revoked since: it must not be brought to life again.
            packed = _packed(key.client, key.scopes, revoked)
            redis_client().set(keys.api_key(key.digest), packed, nx=not revoked)


def _packed(client: str, scopes: Sequence[str], revoked: bool) -> str:
    return _REVOKED if revoked else msgspec.json.encode((client, scopes)).decode()


def _unpacked(packed: str) -> Client | None:
    if packed == _REVOKED:
        return None
    name, scopes = msgspec.json.decode(packed)
    return Client(name, tuple(scopes))


class Directory:
    """What a web process remembers of keys, good and bad, for `MEMORY_S`."""

    #: Guessing keys must not fill memory; a real system has far fewer.
    LIMIT = 10_000

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Client | None]] = {}

    async def find(self, key: str, deadline: float | None = None) -> Client | None:
        """The client of a key, None for a bad one.

        Raises `StoreUnavailable` where neither store can tell, or none could by the deadline (loop time).
        """
        digested = digest(key)
        now = time.monotonic()
        known = self._known.get(digested)
        if known and known[0] > now:
            return known[1]
        client = await _looked_up(digested, deadline)
        if len(self._known) >= self.LIMIT:
            self._known.clear()
        self._known[digested] = (now + MEMORY_S, client)
        return client


async def _looked_up(digested: str, deadline: float | None) -> Client | None:
    """Every key that is not good takes the same way: Redis, then the books, whose word does not revive a revoked one."""
    try:
        packed = await _redis.ask(digested, deadline)
    except StoreUnavailable:
        return await _books.ask(digested, deadline)
    if packed is not None and (known := _unpacked(packed)):
        return known
    client = await _books.ask(digested, deadline)
    if packed is not None or client is None:
        return None
    with suppress(StoreUnavailable), store_faults():
        await web_redis().set(keys.api_key(digested), _packed(client.name, client.scopes, False), nx=True)
    return client


async def _in_redis(digests: Sequence[str]) -> list[str | None]:
    with store_faults():
        found: list[str | None] = await web_redis().mget(map(keys.api_key, digests))
    return found


async def _in_books(digests: Sequence[str]) -> list[Client | None]:
    found = await web_database.rows("api_keys", digests=list(digests))
    clients = {digested: Client(name, tuple(scopes)) for digested, name, scopes in found}
    return [clients.get(digested) for digested in digests]


#: Whoever guesses keys shares few trips with all who guess, and none to the books with those whose key is good.
_redis = RoundTrips(_in_redis, most=128)
_books = RoundTrips(_in_books, most=128)
