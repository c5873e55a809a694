"""What may be learnt by asking: nothing about orders of others or about keys, neither from answers nor from their time.

Time is not measured but counted: the same commands in Redis, the same statements and as many rows in PostgreSQL.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from shop import clients, figures, keys, results, stock, stores
from shop.cancellation import Cancellation, request_cancel
from shop.fulfilment import fulfil
from shop.stores import StoreUnavailable, WebDatabase
from tests.builders import a_sku, accepted, an_order
from tests.raw_http import exchange, head
from tests.running import Answer, System
from tests.test_web_stores import in_a_web_process

OWNER, STRANGER = "owner", "stranger"


@dataclass
class Work:
    """What the stores had to do. `statements`: names and the number of rows found."""

    commands: Counter[str] = field(default_factory=Counter)
    statements: list[tuple[str, int]] = field(default_factory=list)


def commands_so_far(client: "redis.Redis") -> Counter[str]:
    """How often Redis has run each command."""
    stats: dict[str, Any] = client.info("commandstats")
    ours = {
        "cmdstat_info",
        "cmdstat_ping",
        "cmdstat_client",
        "cmdstat_hello",
        "cmdstat_auth",
        "cmdstat_select",
    }
    return Counter({name: told["calls"] for name, told in stats.items() if name not in ours})


@contextmanager
def counted(client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """The work that is done meanwhile."""
    work = Work()
    rows = WebDatabase.rows

    async def noted(self: WebDatabase, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        found = await rows(self, name, **parameters)
        work.statements.append((name, len(found)))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(WebDatabase, "rows", noted)
        before = commands_so_far(client)
        yield work
        work.commands = commands_so_far(client) - before


def works_for(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, *questions: Callable[[], Awaitable[object]]
) -> list[Work]:
    """The work for each question, asked one after the other by a web process that is warm."""

    async def story() -> list[Work]:
        await results.find(str(uuid.uuid4()), STRANGER)  # connects, and tells Redis the script
        figures.tally.tell()  # what was counted before must not arrive meanwhile
        works = []
        for question in questions:
            with counted(client, monkeypatch) as work:
                await question()
            works.append(work)
        return works

    found: list[Work] = in_a_web_process(story)
    return found


def orders_of_the_owner(client: "redis.Redis") -> list[str]:
    """Ids of orders: queued; ended, in both stores; ended, and in the books alone."""
    sku = a_sku(stock=100)
    stock.refresh(client, [sku])
    orders = accepted(client, *(an_order((sku, 1), client=OWNER) for _ in range(3)))
    fulfil(orders[1:], client=client)
    client.delete(keys.order(orders[2].id))
    return [order.id for order in orders]


def test_another_client_s_order_costs_the_stores_what_an_unknown_one_costs(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [str(uuid.uuid4()), *orders_of_the_owner(client)]

    unknown, *foreign = works_for(
        client, monkeypatch, *(lambda each=each: results.find(each, STRANGER) for each in ids)
    )

    assert unknown.statements == [("orders", 0)]
    assert foreign == [unknown] * 3


def test_cancelling_another_client_s_order_costs_what_an_unknown_one_costs(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [str(uuid.uuid4()), *orders_of_the_owner(client)]
    works_for(client, monkeypatch, lambda: request_cancel(ids[0], STRANGER))

    answers: list[Cancellation] = []

    async def cancel(order_id: str) -> None:
        answers.append(await request_cancel(order_id, STRANGER))

    unknown, *foreign = works_for(client, monkeypatch, *(lambda each=each: cancel(each) for each in ids))

    assert answers == [Cancellation.UNKNOWN] * 4
    assert foreign == [unknown] * 3


def test_an_unknown_api_key_costs_what_a_revoked_one_costs_and_a_good_one_is_asked_for_in_redis_alone(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"client-{uuid.uuid4().hex[:8]}"
    good, revoked = clients.create_key(name, ["orders"]), clients.create_key(f"{name}-gone", ["orders"])
    clients.revoke_keys(f"{name}-gone")
    near = good[:-1] + ("A" if good[-1] != "A" else "B")
    directory = clients.Directory()

    unknown, near_miss, gone, known = works_for(
        client,
        monkeypatch,
        *(lambda key=key: directory.find(key) for key in ("rsv_guess", near, revoked, good)),
    )

    assert unknown.statements == [("api_keys", 0)]
    assert near_miss == gone == unknown
    assert known.statements == []


def test_a_revoked_key_stays_so_though_the_books_have_not_heard(client: "redis.Redis") -> None:
    key = clients.create_key(f"client-{uuid.uuid4().hex[:8]}", ["orders"])
    client.set(keys.api_key(clients.digest(key)), "revoked")

    assert in_a_web_process(lambda: clients.Directory().find(key)) is None


def test_many_who_guess_keys_share_trips_and_fill_no_memory(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = clients.Directory()
    monkeypatch.setattr(clients.Directory, "LIMIT", 100)

    async def guess() -> None:
        await asyncio.gather(*(directory.find(f"rsv_{n}") for n in range(300)))

    (work,) = works_for(client, monkeypatch, guess)

    assert work.commands["cmdstat_mget"] <= 4
    assert len(work.statements) <= 6
    assert len(directory._known) <= 100


def test_a_crowd_with_one_key_asks_for_it_in_one_trip(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    key, directory = clients.create_key(f"client-{uuid.uuid4().hex[:8]}", ["orders"]), clients.Directory()

    async def crowd() -> None:
        found = await asyncio.gather(*(directory.find(key) for _ in range(100)))
        assert None not in found

    (work,) = works_for(client, monkeypatch, crowd)

    assert work.commands["cmdstat_mget"] <= 2


def test_keys_are_long_random_and_never_alike() -> None:
    made = {clients.create_key(f"client-{uuid.uuid4().hex[:8]}", ["orders"]) for _ in range(20)}

    assert len(made) == 20
    assert {len(key.removeprefix("rsv_")) for key in made} == {43}  # 256 bits in base64


# --- what is answered -----------------------------------------------------------------------------


def told(answer: Answer) -> tuple[int, object, dict[str, str]]:
    """All of an answer but what differs from one request to the next."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return answer.status, answer.body, {**headers, "x-request-id": "", "date": ""}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_unknown_and_foreign_orders_get_the_same_answer_to_the_byte(system: System, method: str) -> None:
    stranger = clients.create_key(f"stranger-{uuid.uuid4().hex[:8]}", ["orders"])
    ended = system.end_of(system.place((a_sku(), 1)).body["id"]).body["id"]
    queued = accepted(stores.redis_client(), an_order((a_sku(), 1), client=OWNER))[0].id
    forgotten = system.end_of(system.place((a_sku(), 1)).body["id"]).body["id"]
    stores.redis_client().delete(keys.order(forgotten))
    end = "/cancel" if method == "POST" else ""

    answers = [
        told(system.send(method, f"/api/v1/orders/{each}{end}", api_key=stranger))
        for each in (str(uuid.uuid4()), ended, queued, forgotten)
    ]

    assert answers[0][0] == 404
    assert answers == [answers[0]] * 4
    assert system.get(f"/api/v1/orders/{ended}").body["status"] == "confirmed"  # and nothing was cancelled


def test_nobody_waits_longer_for_another_client_s_order(system: System) -> None:
    stranger = clients.create_key(f"stranger-{uuid.uuid4().hex[:8]}", ["orders"])
    queued = accepted(stores.redis_client(), an_order((a_sku(), 1), client=OWNER))[0].id

    answer = system.send(
        "GET", f"/api/v1/orders/{queued}", headers={"Prefer": "wait=30"}, api_key=stranger, timeout_s=15
    )

    assert answer.status == 404


@pytest.mark.parametrize(
    "key", ["", " ", "rsv_", "revoked", "x" * 5000, "*", "a\tb", "\u00ff", "rsv_" + "A" * 43]
)
def test_every_bad_key_gets_the_same_answer(system: System, key: str) -> None:
    expected = told(system.send("GET", "/api/v1/orders/1", api_key="guess"))
    if key == "revoked":
        key = clients.create_key(f"client-{uuid.uuid4().hex[:8]}", ["orders"])
        clients.revoke_keys(clients.ApiKey.objects.get(digest=clients.digest(key)).client)

    answer = system.send("GET", f"/api/v1/orders/{uuid.uuid4()}", headers={"Authorization": f"Bearer {key}"})

    assert answer.status == 401
    assert answer.body == system.send("GET", f"/api/v1/orders/{uuid.uuid4()}", api_key="guess").body
    assert expected[0] == 404  # what is no id is no address, whoever asks


@pytest.mark.parametrize("scheme", ["Basic", "Digest", "bearer\t", "", "BearerX"])
def test_a_good_key_under_another_scheme_is_no_key(system: System, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {system.api_key}"}

    assert system.send("GET", "/api/v1/products", headers=headers).status == 401


def test_two_keys_in_one_request_are_none(system: System) -> None:
    reply = exchange(
        system, head(system, "GET /api/v1/products HTTP/1.1", f"Authorization: Bearer {system.api_key}")
    )

    assert (reply.status, reply.problem) == (401, "unauthorized")


# --- waits ----------------------------------------------------------------------------------------


def test_a_line_before_postgresql_that_is_too_long_is_not_joined(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches of one client that take long must not keep all others waiting for minutes."""
    database = WebDatabase()
    monkeypatch.setattr(WebDatabase, "LINE_S", 0.05)
    answers: list[object] = []

    async def story() -> None:
        async with database._its_turn():
            answers.extend(
                await asyncio.gather(
                    *(database.rows("count_products") for _ in range(10)), return_exceptions=True
                )
            )
        answers.append(await database.rows("count_products"))
        await database.close()

    asyncio.run(story())

    assert {type(answer) for answer in answers[:10]} == {StoreUnavailable}
    assert isinstance(answers[10], list)
