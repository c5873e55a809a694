"""Ten times what may be served: the rest is refused at once, what may be served is served, and after it all is as before."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from shop import keys
from shop.clients import create_key
from shop.models import Order as OrderRow
from shop.stores import redis_client
from shop.web.gate import Gate
from shop.web.problems import Kind, Problem
from tests.benchmarks import wire
from tests.benchmarks.arrivals import ID_PLACE, Arrivals, Followed
from tests.benchmarks.load import Apart, run_apart
from tests.builders import a_sku, assert_at_rest, wait_until
from tests.running import System, frozen
from workers.embedded import RedisServer

RATE, SECONDS, QUEUE = 40, 4, 20
#: Less than a web process waits for a Redis that does not answer.
SOON_S = 0.5


def arrivals(system: System, per_second: int, sku: str, api_key: str = "") -> Arrivals:
    """Orders for one unit each, on schedule whatever the system answers; only the first one is asked for afterwards."""
    address = ("127.0.0.1", system.port)
    headers = {"Authorization": f"Bearer {api_key or system.api_key}"}
    body = {"items": [{"sku": sku, "quantity": 1}]}
    requests = [
        wire.request(
            "POST", "/api/v1/orders", address, {**headers, "Idempotency-Key": uuid.uuid4().hex}, body
        )
        for _ in range(per_second * SECONDS)
    ]
    return Arrivals(
        address=address,
        requests=requests,
        per_second=per_second,
        ask=wire.request("GET", f"/api/v1/orders/{ID_PLACE.decode()}", address, headers),
        follow_every=len(requests) + 1,
        most_connections=400,
    )


@pytest.fixture
def crew(tmp_path: Path, client: "redis.Redis") -> Iterator[ExitStack]:
    """What is started in a test ends with it."""
    with ExitStack() as stack:
        yield stack


def limited(crew: ExitStack, folder: Path, **env: str) -> System:
    """A system with these limits."""
    return crew.enter_context(System(folder, env=env)).start()


def assert_all_of_them_ended(sku: str, accepted: int) -> None:
    """As many confirmed as were accepted, no more and no fewer."""
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="the end of all orders")
    assert OrderRow.objects.filter(lines__sku=sku, status="confirmed").count() == accepted
    assert_at_rest(redis_client())


def test_ten_times_a_client_s_rate_gets_the_rate_and_another_client_notices_nothing(
    crew: ExitStack, tmp_path: Path
) -> None:
    system, sku = limited(crew, tmp_path, ORDER_RATE_LIMIT=str(RATE)), a_sku(stock=100_000)
    modest = create_key(f"modest-{uuid.uuid4().hex[:8]}", ["orders"])

    with Apart(arrivals(system, 10 * RATE, sku)) as greedy:
        others: Followed = run_apart(arrivals(system, RATE // 2, sku, modest))
        found: Followed = greedy.result()
    after = system.place((sku, 1))

    assert others.statuses == Counter({202: RATE // 2 * SECONDS})
    assert set(found.statuses) == {202, 429}
    # One second's burst and the rate: all of it, and no more.
    assert 0.9 * RATE * found.seconds <= found.statuses[202] <= RATE * (found.seconds + 1) + 2
    assert after.status in {202, 429}
    wait_until(lambda: system.place((sku, 1)).status == 202, timeout_s=2, what="room for one order")
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="the end of all orders")
    assert_at_rest(redis_client())


def test_more_than_the_queue_may_hold_is_refused_and_all_that_was_accepted_ends(
    crew: ExitStack, tmp_path: Path
) -> None:
    system, sku = limited(crew, tmp_path, QUEUE_LIMIT=str(QUEUE)), a_sku(stock=1_000_000)

    found: Followed = run_apart(arrivals(system, 3_000, sku))

    assert set(found.statuses) == {202, 503}
    assert found.statuses[202] > QUEUE
    assert_all_of_them_ended(sku, found.statuses[202])
    ended = system.end_of(system.place((sku, 1)).body["id"])
    assert ended.body["status"] == "confirmed"


def test_whoever_is_refused_is_told_when_to_come_again_and_its_key_works_then(
    crew: ExitStack, tmp_path: Path
) -> None:
    system, sku = crew.enter_context(System(tmp_path, env={"QUEUE_LIMIT": "1"})).start("web"), a_sku()
    key = uuid.uuid4().hex
    first = system.place((sku, 1), key="first-" + key)

    refused = system.place((sku, 1), key=key)
    again = system.place((sku, 1), key="first-" + key)
    system.start("worker")
    wait_until(lambda: system.place((sku, 1), key=key).status == 202, what="room for one order")

    assert (refused.status, refused.body["type"]) == (503, "queue-full")
    assert int(refused.headers["Retry-After"]) >= 1
    assert (again.status, again.body["id"]) == (202, first.body["id"])


# --- the gate -------------------------------------------------------------------------------------


def kind_of_refusal(gate: Gate, now: float) -> Kind | None:
    """Why the gate keeps an order out, None where it does not."""
    try:
        with gate.passage(now):
            return None
    except Problem as problem:
        return problem.kind


def test_no_more_are_taken_in_than_can_be_answered_in_time() -> None:
    gate = Gate()
    with ExitStack() as inside:
        for _ in range(Gate.MOST):
            inside.enter_context(gate.passage(0.0))

        assert kind_of_refusal(gate, 0.0) is Kind.UNAVAILABLE

    assert kind_of_refusal(gate, 0.0) is None
    assert gate.inside == 0


def test_while_the_queue_is_full_only_few_ask_whether_it_still_is() -> None:
    gate = Gate()
    gate.found_full(10.0)
    with ExitStack() as inside:
        for _ in range(Gate.FEW):
            inside.enter_context(gate.passage(10.0))

        assert kind_of_refusal(gate, 10.05) is Kind.QUEUE_FULL
        assert kind_of_refusal(gate, 10.0 + Gate.FULL_FOR_S) is None


def crowded(crew: ExitStack, folder: Path, redis_server: RedisServer, guard: str) -> list[float]:
    """Three hundred orders at once while Redis is frozen: after how many seconds each of them was refused."""
    env = {"UNGUARDED": guard}
    system = crew.enter_context(System(folder, env=env, web_module="tests.unguarded_web")).start("web")
    plan = replace(arrivals(system, 75, a_sku()), per_second=10_000)
    with frozen(redis_server.pid):
        found: Followed = run_apart(plan)
    assert found.statuses == Counter({503: 75 * SECONDS})
    return sorted(found.refusals_s)


def test_whoever_finds_no_place_is_refused_long_before_those_who_have_one(
    crew: ExitStack, tmp_path: Path, redis_server: RedisServer
) -> None:
    refused_s = crowded(crew, tmp_path, redis_server, "all but a hundred places of the gate")

    assert refused_s[len(refused_s) // 2] < SOON_S < refused_s[-1]


def test_without_the_gate_everybody_waits_as_long(
    crew: ExitStack, tmp_path: Path, redis_server: RedisServer
) -> None:
    assert crowded(crew, tmp_path, redis_server, "gate")[0] > SOON_S


def test_an_order_that_fails_leaves_the_gate_too() -> None:
    gate = Gate()

    with pytest.raises(json.JSONDecodeError), gate.passage(0.0):
        json.loads("")

    assert gate.inside == 0
