"""What Prometheus is told: valid, of the whole system, and the same by every web process."""

import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from shop import keys
from shop.stores import redis_client
from tests.builders import a_sku, wait_until
from tests.running import System, frozen
from workers import heartbeat
from workers.embedded import RedisServer

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_in(text: str) -> Samples:
    """Every sample by its name and labels. Fails where the text is not valid or says something twice."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type != "unknown", family.name
        for sample in family.samples:
            name = (sample.name, tuple(sorted(sample.labels.items())))
            assert name not in found, name
            found[name] = sample.value
    return found


def told(system: System) -> Samples:
    """What a web process tells."""
    answer = system.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return samples_in(answer.body)


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample, 0 where it was never counted."""
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_orders_are_told_by_what_became_of_them(system: System) -> None:
    before = told(system)
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    first = system.end_of(system.place((sku, 8), key=key).body["id"]).body
    second = system.end_of(system.place((sku, 8)).body["id"]).body
    system.place((sku, 8), key=key)
    system.place((sku, 9), key=key)
    system.send("POST", f"{first['href']}/cancel")
    assert (first["status"], second["status"]) == ("confirmed", "rejected")

    grown = {
        ("reserva_intake_total", ("outcome", "accepted")): 2,
        ("reserva_intake_total", ("outcome", "replayed")): 1,
        ("reserva_intake_total", ("outcome", "reused")): 1,
        ("reserva_orders_ended_total", ("reason", ""), ("status", "confirmed")): 1,
        ("reserva_orders_ended_total", ("reason", "insufficient_stock"), ("status", "rejected")): 1,
        ("reserva_orders_ended_total", ("reason", ""), ("status", "cancelled")): 1,
        ("reserva_order_seconds_count",): 2,
        ("reserva_units_sold_total",): 8,
    }

    def growth() -> Mapping[object, float]:
        after = told(system)
        return {
            (name, *labels): after.get((name, labels), 0) - before.get((name, labels), 0)
            for name, *labels in grown
            for labels in [tuple(labels)]
        }

    wait_until(lambda: growth() == grown, timeout_s=10, what=f"{grown}")


def test_what_has_not_come_yet_is_told_as_none(system: System) -> None:
    samples = told(system)

    assert ("reserva_intake_total", (("outcome", "queue_full"),)) in samples
    failed = (("reason", "too_many_attempts"), ("status", "failed"))
    assert samples["reserva_orders_ended_total", failed] == 0
    # Else the first one ever would be no growth, and nobody be alarmed.
    assert samples["reserva_http_requests_total", (("method", "POST"), ("status", "500"))] == 0


def test_pages_for_people_are_counted_among_the_requests(system: System) -> None:
    def pages() -> float:
        return value(told(system), "reserva_http_requests_total", method="GET", status="404")

    before = pages()

    assert system.get("/products/no-such-product").status == 404

    wait_until(lambda: pages() == before + 1, timeout_s=10)


def test_a_worker_that_says_it_stops_beats_no_more(client: "redis.Redis") -> None:
    name = f"worker-{uuid.uuid4().hex}@tests"
    heartbeat.beat(name)
    assert client.exists(heartbeat.key(name))

    heartbeat.fall_silent(name)
    heartbeat.beat(name)

    assert not client.exists(heartbeat.key(name))


def test_a_worker_told_to_stop_in_the_midst_of_a_heartbeat_beats_no_more(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"worker-{uuid.uuid4().hex}@tests"
    in_truth = heartbeat._client

    def told_to_stop_meanwhile() -> "redis.Redis":
        monkeypatch.setattr(heartbeat, "_client", in_truth)
        heartbeat.fall_silent(name)
        return in_truth()

    monkeypatch.setattr(heartbeat, "_client", told_to_stop_meanwhile)
    heartbeat.beat(name)

    assert not client.exists(heartbeat.key(name))


def test_buckets_grow_to_the_count(system: System) -> None:
    system.end_of(system.place((a_sku(), 1)).body["id"])
    wait_until(lambda: value(told(system), "reserva_order_seconds_count") > 0, timeout_s=10)
    samples = told(system)

    for histogram in ("reserva_order_seconds", "reserva_batch_orders"):
        buckets = sorted(
            (float(dict(labels)["le"]), number)
            for (name, labels), number in samples.items()
            if name == f"{histogram}_bucket"
        )
        counts = [number for _, number in buckets]
        assert counts == sorted(counts)
        assert counts[-1] == value(samples, f"{histogram}_count") > 0
        assert buckets[-1][0] == float("inf")
        assert value(samples, f"{histogram}_sum") > 0


def test_names_are_prometheus_s_own_kind(system: System) -> None:
    for family in text_string_to_metric_families(system.get("/metrics").body):
        assert re.fullmatch(r"reserva_[a-z_]+", family.name)
        assert family.type != "counter" or all(sample.name.endswith("_total") for sample in family.samples)
        assert not re.search(r"_(ms|milliseconds|minutes)\b", family.name), "base units alone"


def test_two_web_processes_tell_the_same(system: System, tmp_path: Path) -> None:
    with System(tmp_path) as other:
        other.start("web")
        sku = a_sku(stock=100)
        for each in (system, other):
            for _ in range(3):
                each.end_of(each.place((sku, 1)).body["id"])
        counted = [("reserva_intake_total", {"outcome": "accepted"}), ("reserva_order_seconds_count", {})]

        def agree() -> bool:
            here, there = told(system), told(other)
            return all(
                value(here, name, **labels) == value(there, name, **labels) >= 6 for name, labels in counted
            )

        wait_until(agree, timeout_s=10)


def test_what_waits_and_since_when_is_told(system: System) -> None:
    system.stop("worker")
    try:
        placed = system.place((a_sku(), 1)).body["id"]
        assert value(told(system), "reserva_workers") == 0
        wait_until(lambda: value(told(system), "reserva_queue_oldest_seconds") > 1, timeout_s=10)
        samples = told(system)
        assert value(samples, "reserva_queue_messages") == value(samples, "reserva_open_orders") == 1
    finally:
        system.start("worker")
    system.end_of(placed)

    wait_until(lambda: value(told(system), "reserva_workers") == 1, timeout_s=10)
    after = told(system)
    assert value(after, "reserva_queue_messages") == value(after, "reserva_queue_oldest_seconds") == 0
    ages = [age for (name, _), age in after.items() if name == "reserva_worker_heartbeat_age_seconds"]
    assert [0 <= age < 10 for age in ages] == [True]


def test_the_last_reconcile_and_the_last_sweep_are_told(system: System) -> None:
    wait_until(
        lambda: redis_client().exists(keys.LAST_RECONCILE) or _reconcile(), timeout_s=20, what="a reconcile"
    )
    wait_until(lambda: redis_client().exists(keys.SWEEPER_HEARTBEAT), timeout_s=20, what="a sweep")
    samples = told(system)

    assert value(samples, "reserva_reconcile_clean") == 1
    assert value(samples, "reserva_oversold_skus") == value(samples, "reserva_reconcile_differences") == 0
    assert ("reserva_sweeper_age_seconds", ()) in samples
    assert abs(value(samples, "reserva_reconcile_timestamp_seconds") - redis_client().time()[0]) < 120


def _reconcile() -> bool:
    from shop import reconciliation

    return reconciliation.reconcile(redis_client()).clean


def test_without_redis_that_alone_is_told(system: System, redis_server: RedisServer) -> None:
    with frozen(redis_server.pid):
        samples = told(system)

    assert value(samples, "reserva_redis_up") == 0
    assert not [name for name, _ in samples if name not in ("reserva_redis_up", "reserva_build_info")]
    assert value(told(system), "reserva_redis_up") == 1


@pytest.mark.parametrize("text", ["reserva_x 1\nreserva_x 2\n", "# TYPE reserva_x wrong\n", "reserva x y\n"])
def test_text_that_is_not_valid_would_be_noticed(text: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        samples_in(text)
