"""API keys: known to both stores, and ended in both."""

import time
import uuid
from collections.abc import Iterator
from io import StringIO

import pytest
import redis
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError

from shop import clients, keys
from shop.models import ApiKey
from shop.stores import StoreUnavailable, store_faults
from tests.builders import wait_until
from tests.running import System


@pytest.fixture
def full_redis() -> Iterator["redis.Redis"]:
    """A Redis at its memory limit."""
    client = clients.redis_client()
    client.config_set("maxmemory", "1mb")
    yield client
    client.config_set("maxmemory", 0)


def test_a_key_revoked_while_it_is_being_published_stays_revoked(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"client-{uuid.uuid4().hex[:8]}"
    key = clients.create_key(name, ["orders"])
    packed = clients._packed

    def revoke_meanwhile(of: str, scopes: list[str], revoked: bool) -> str:
        if of == name:
            monkeypatch.setattr(clients, "_packed", packed)
            clients.revoke_keys(name)
        return packed(of, scopes, revoked)

    monkeypatch.setattr(clients, "_packed", revoke_meanwhile)

    clients.publish_keys()

    assert client.get(keys.api_key(clients.digest(key))) == "revoked"


def test_a_key_that_is_made_while_redis_is_full_is_not_lost(
    client: "redis.Redis", full_redis: "redis.Redis"
) -> None:
    full_redis.config_set("maxmemory", 1)
    key = clients.create_key(f"client-{uuid.uuid4().hex[:8]}", ["orders"])
    assert client.get(keys.api_key(clients.digest(key))) is None

    full_redis.config_set("maxmemory", 0)
    clients.publish_keys()

    assert client.get(keys.api_key(clients.digest(key))) is not None


def test_of_a_client_s_keys_one_can_be_ended_alone(client: "redis.Redis") -> None:
    name = f"client-{uuid.uuid4().hex[:8]}"
    leaked, other = (clients.digest(clients.create_key(name, ["orders"])) for _ in range(2))

    ended = [clients.revoke_key(leaked), clients.revoke_key(leaked)]

    assert ended == [True, False]
    assert client.get(keys.api_key(leaked)) == "revoked"
    assert client.get(keys.api_key(other)) != "revoked"


def test_all_keys_but_the_newest_end_when_a_client_has_changed_over(client: "redis.Redis") -> None:
    name, stranger = (f"client-{uuid.uuid4().hex[:8]}" for _ in range(2))
    first, second, newest = (clients.digest(clients.create_key(name, ["orders"])) for _ in range(3))
    other = clients.digest(clients.create_key(stranger, ["orders"]))

    ended = [clients.revoke_keys(name, keep_newest=True), clients.revoke_keys(name, keep_newest=True)]

    assert ended == [2, 0]
    assert [client.get(keys.api_key(key)) for key in (first, second)] == ["revoked", "revoked"]
    assert "revoked" not in [client.get(keys.api_key(key)) for key in (newest, other)]


@pytest.mark.parametrize("redis_forgets", [False, True])
def test_a_revoked_key_ends_within_five_seconds(system: System, redis_forgets: bool) -> None:
    name = f"client-{uuid.uuid4().hex[:8]}"
    key = clients.create_key(name, ["orders"])
    assert system.send("GET", "/api/v1/products", api_key=key).status == 200

    clients.revoke_keys(name)
    if redis_forgets:
        clients.redis_client().delete(keys.api_key(clients.digest(key)))
    revoked_at = time.monotonic()
    wait_until(lambda: system.send("GET", "/api/v1/products", api_key=key).status == 401, timeout_s=5)

    assert time.monotonic() - revoked_at < 5


def test_a_revoked_key_that_redis_forgot_opens_nothing(system: System) -> None:
    name = f"client-{uuid.uuid4().hex[:8]}"
    key = clients.create_key(name, ["orders"])
    clients.revoke_keys(name)
    clients.redis_client().delete(keys.api_key(clients.digest(key)))

    assert system.send("GET", "/api/v1/products", api_key=key).status == 401


def test_a_key_that_redis_forgot_is_found_in_the_books(system: System) -> None:
    key = clients.create_key(f"client-{uuid.uuid4().hex[:8]}", ["orders"])
    clients.redis_client().delete(keys.api_key(clients.digest(key)))

    assert system.send("GET", "/api/v1/products", api_key=key).status == 200
    assert clients.redis_client().exists(keys.api_key(clients.digest(key)))


def test_a_key_that_redis_has_no_room_for_is_good(system: System, full_redis: "redis.Redis") -> None:
    name = f"client-{uuid.uuid4().hex[:8]}"
    full_redis.config_set("maxmemory", 0)
    key = clients.create_key(name, ["orders"])
    full_redis.delete(keys.api_key(clients.digest(key)))
    full_redis.config_set("maxmemory", "1mb")

    assert system.send("GET", "/api/v1/products", api_key=key).status == 200
    assert not full_redis.exists(keys.api_key(clients.digest(key)))


def test_a_redis_without_room_is_a_store_that_is_away(full_redis: "redis.Redis") -> None:
    with pytest.raises(StoreUnavailable), store_faults():
        full_redis.set("anything", "at all")


def test_keys_are_stored_hashed(client: "redis.Redis") -> None:
    key = clients.create_key("hashed", ["orders"])

    assert not any(key in name or key in client.get(name) for name in client.scan_iter("api_key:*"))


@pytest.mark.parametrize("name", ["storefront", "Storefront", "", "a:b", "a" * 65, "a\n"])
def test_no_key_is_made_for_a_name_of_the_shop_s_own_or_for_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        clients.create_key(name, ["orders"])
    with pytest.raises(CommandError, match="name"):
        call_command("create_api_key", name)

    assert not ApiKey.objects.filter(client=name).exists()


def check() -> str:
    """What `manage.py check` says of names; empty where it is content."""
    try:
        call_command("check", stdout=StringIO())
    except SystemCheckError as error:
        return str(error)
    return ""


def test_a_key_for_the_shop_s_own_name_that_exists_is_reported(client: "redis.Redis") -> None:
    before = check()
    ApiKey.objects.create(
        digest=clients.digest("older than the rule"), client="storefront", scopes=["orders"]
    )
    try:
        told = check()
        clients.revoke_keys("storefront")
        afterwards = check()
    finally:
        ApiKey.objects.filter(client="storefront").delete()

    assert "(shop.E002) An API key is good for the client 'storefront'" in told
    assert "revoke_api_key storefront" in told
    assert (before, afterwards) == ("", "")
