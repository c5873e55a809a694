"""The benchmark itself: that it measures what it says, and that it calls a wrong round wrong."""

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.benchmarks import compare, plots, report, results, rounds, traffic, wire
from tests.benchmarks.arrivals import CROWD_PER_S, ID_PLACE, Arrivals, Followed, percentile
from tests.benchmarks.baselines import CeleryNoop, Textbook
from tests.benchmarks.bench import Bench, Case, Findings, Pace
from tests.benchmarks.flower import succeeded
from tests.benchmarks.latency import Latency
from tests.benchmarks.load import Flood, Flooded, LoadFailed, run_apart
from tests.benchmarks.reserva import Reserva
from tests.benchmarks.rounds import Round, point
from tests.benchmarks.systems import System, ask, wait_until
from tests.benchmarks.targets import judge

ORDER_ID = "0f3c0000-0000-8000-8000-000000000000"


class Shop(BaseHTTPRequestHandler):
    """Accepts orders, but for keys with `refuse` in them; an order has ended when it is asked for the second time.

    POSTs are answered when `together` of them have come.
    """

    protocol_version = "HTTP/1.1"
    together = threading.Barrier(1)
    asked: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.together.wait(timeout=10)
        is_refused = "refuse" in self.headers["Idempotency-Key"]
        self._answer(503 if is_refused else 202, {"id": self.headers["Idempotency-Key"], "status": "queued"})

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        self._answer(200, {"id": ORDER_ID, "status": "queued" if self.asked[self.path] == 1 else "confirmed"})

    def _answer(self, status: int, document: dict[str, str]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class ShopServer(ThreadingHTTPServer):
    #: All of a crowd may connect before one is let in. Five, as is usual, and those past them try again seconds later.
    request_queue_size = 1_000


@contextmanager
def a_shop(*, together: int = 1) -> Iterator[wire.Address]:
    handler = type("Handler", (Shop,), {"together": threading.Barrier(together), "asked": Counter()})
    with ShopServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield ("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join()


def posts(address: wire.Address, *keys: str) -> list[bytes]:
    document = {"items": [{"sku": "X", "quantity": 1}]}
    return [wire.request("POST", "/", address, {"Idempotency-Key": key}, document) for key in keys]


def test_each_request_is_sent_once_and_each_status_counted() -> None:
    keys = [f"key-{number}" for number in range(30)]

    with a_shop() as address:
        flood = Flood(address=address, requests=posts(address, *keys, "refuse-1", "refuse-2"), connections=4)
        flooded: Flooded = run_apart(flood)

    assert sorted(flooded.accepted) == sorted(keys)
    assert flooded.statuses == {202: 30, 503: 2}
    assert flooded.ended > flooded.began
    assert flooded.cpu_s > 0


def test_a_load_on_nobody_fails() -> None:
    with a_shop() as address:
        requests = posts(address, "key")

    with pytest.raises(LoadFailed):
        run_apart(Flood(address=address, requests=requests))


@pytest.mark.parametrize("per_second", [200, 2 * CROWD_PER_S], ids=["one by one", "in a crowd"])
def test_orders_arrive_on_schedule_however_long_the_answers_take(per_second: int) -> None:
    count = per_second // 10
    keys = [f"key-{number}" for number in range(count)]

    with a_shop(together=count) as address:
        ask_for = wire.request("GET", f"/{ID_PLACE.decode()}", address, {})
        plan = Arrivals(address=address, requests=posts(address, *keys), per_second=per_second, ask=ask_for)
        followed: Followed = run_apart(plan)

    # The first was due a tenth of a second before the last, and was answered when the last had come.
    assert max(followed.latencies_s) > (count - 1) / per_second
    assert max(followed.latencies_s) - min(followed.latencies_s) > 10 / 200
    assert len(followed.latencies_s) == count
    assert sorted(followed.accepted) == sorted(keys)


def test_of_a_sample_alone_the_results_are_asked_for() -> None:
    with a_shop() as address:
        ask_for = wire.request("GET", f"/{ID_PLACE.decode()}", address, {})
        keys = [f"key-{number}" for number in range(20)]
        plan = Arrivals(
            address=address, requests=posts(address, *keys), per_second=500, ask=ask_for, follow_every=5
        )
        followed: Followed = run_apart(plan)

    assert (len(followed.latencies_s), len(followed.accepted)) == (4, 20)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_the_smallest_figure_that_so_many_do_not_exceed(share: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_answers_end_where_they_say() -> None:
    sized = b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nbody"
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"

    for answer in (sized, chunked):
        assert wire.is_whole(answer)
        assert not any(wire.is_whole(answer[:size]) for size in range(len(answer)))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A run with Celery doing nothing."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o711)
    with Bench(folder, Pace(rounds=1, round_s=0.3, steady_s=0.3)) as bench:
        bench.start(CeleryNoop(folder / "noop", "noop"))
        yield bench


def place_one(system: System) -> str:
    """Place an order for one unit of X and wait for its end; its id."""
    answer = ask(system.address, system.post("one", [("X", 1)]))
    assert wire.status(answer) == 202
    wait_until(lambda: not system.waiting(), within_s=20, what="the end of the order")
    return wire.order_id(answer)


def test_celery_doing_nothing_takes_an_order_and_a_lost_one_is_noticed(bench: Bench) -> None:
    system = bench.running["noop"]

    order = place_one(system)

    assert b'"confirmed"' in ask(system.address, system.get(order, wait_s=0))
    assert system.faults(None, [order]) == []
    assert system.faults(None, [order, ORDER_ID]) == ["1 accepted orders without a result"]


def test_a_run_keeps_what_each_case_did(bench: Bench) -> None:
    case = Case(system=bench.running["noop"], scenario="spread", traffic=traffic.spread())

    bench.interleave([case])

    assert [(one.system, one.scenario, one.faults) for one in bench.found.rounds] == [("noop", "spread", [])]
    assert bench.found.rounds[0].orders == bench.found.rounds[0].lines / 3
    assert bench.found.wrong == []


def test_a_run_tells_what_was_refused(bench: Bench) -> None:
    nothing = Case(
        system=bench.running["noop"], scenario="nothing", traffic=lambda count: [[]] * count, warm_orders=7
    )

    found = bench.round(nothing, 1)

    assert found.statuses == {400: 7}
    assert bench.found.wrong == ["noop, nothing: 7 answers 400"]


@pytest.mark.depth  # of how a baseline is looked through; the one above asks the same of Celery doing nothing
def test_the_textbook_fulfils_an_order_and_wrong_stock_is_noticed(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    with Textbook(tmp_path / "textbook") as system:
        system.put_on_sale({"X": 10})
        before = system.snapshot(["X"])
        order = place_one(system)

        assert b'"confirmed"' in ask(system.address, system.get(order, wait_s=0))
        assert system.faults(before, [order]) == []
        assert "orders in the books that nobody placed" in system.faults(before, [])
        assert "1 accepted orders lost" in system.faults(before, [order, ORDER_ID])

        system.database.execute("UPDATE textbook_product SET stock = stock - 1")

        assert system.faults(before, [order]) == ["X: 1 units in confirmed orders, 2 taken"]


@pytest.fixture(scope="module")
def reserva(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reserva]:
    folder = tmp_path_factory.mktemp("bench")
    with Reserva(folder) as system:
        system.put_on_sale({"sku": 1_000, "few": 5})
        yield system


def test_a_round_of_this_system_is_timed_and_found_right(reserva: Reserva) -> None:
    orders = [[("sku", 2)]] * 20 + [[("few", 1)]] * 10

    found = rounds.run(reserva, orders, tag="right", scenario="hot")

    assert found.faults == []
    assert found.statuses == {202: 30}
    assert 0 < found.posting_s <= found.seconds < 30
    assert {"web", "worker", "redis", "postgres"} <= set(found.cpu_us)
    assert reserva.snapshot(["few"]).products == {"few": (5, 5)}


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("DELETE FROM shop_order WHERE id = %(id)s", "1 accepted orders lost"),
        ("UPDATE shop_order SET status = 'failed' WHERE id = %(id)s", "1 orders ended as failed"),
        ("UPDATE shop_product SET confirmed = confirmed + 1 WHERE sku = 'sku'", "sku: 1 units in confirmed"),
    ],
)
def test_books_that_do_not_add_up_make_a_round_wrong(reserva: Reserva, damage: str, fault: str) -> None:
    before = reserva.snapshot(["sku"])
    order = wire.order_id(ask(reserva.address, reserva.post(uuid.uuid4().hex, [("sku", 1)])))
    wait_until(lambda: not reserva.waiting(), within_s=20, what="the end of the order")
    assert reserva.faults(before, [order]) == []

    with reserva.database.transaction(force_rollback=True):
        reserva.database.execute(damage, {"id": order})
        found = reserva.faults(before, [order])

    assert any(one.startswith(fault) for one in found), found


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (("SET", "estoque:sku", "7"), "sku: 1000 on sale"),
        (("SET", "lock:produto:sku", "somebody"), "1 locks left behind"),
    ],
)
def test_what_is_left_in_redis_makes_a_round_wrong(
    reserva: Reserva, command: tuple[str, ...], fault: str
) -> None:
    before = reserva.snapshot(["sku"])
    free = reserva.redis.get("estoque:sku")
    assert reserva.faults(before, []) == []

    reserva.redis.execute_command(*command)
    found = reserva.faults(before, [])
    reserva.redis.delete("lock:produto:sku")
    reserva.redis.set("estoque:sku", str(free))

    assert any(one.startswith(fault) for one in found), found


def test_a_lock_of_an_order_that_has_ended_makes_a_round_wrong(reserva: Reserva) -> None:
    before = reserva.snapshot(["sku"])
    order = wire.order_id(ask(reserva.address, reserva.post(uuid.uuid4().hex, [("sku", 1)])))
    wait_until(lambda: not reserva.waiting(), within_s=20, what="the end of the order")
    reserva.redis.set("lock:produto:sku", order, px=5_000)

    found = reserva.faults(before, [order])
    reserva.redis.delete("lock:produto:sku")

    assert found == [f"1 locks left behind: {{'sku': '{order}'}}"]


def test_a_lock_of_a_reconcile_that_is_just_looking_makes_no_round_wrong(reserva: Reserva) -> None:
    reserva.redis.set("lock:produto:sku", "a reconcile", px=500)

    assert reserva.faults(reserva.snapshot(["sku"]), []) == []


def test_flower_is_asked_for_orders_that_succeeded_and_nothing_else() -> None:
    told = [
        ("task-succeeded", "tasks.orders.fulfil_order", "worker@a", 40),
        ("task-succeeded", "tasks.orders.fulfil_order", "worker2@a", 2),
        ("task-received", "tasks.orders.fulfil_order", "worker@a", 500),
        ("task-succeeded", "tasks.maintenance.sweep", "worker@a", 7),
    ]
    metrics = "\n".join(
        f'flower_events_total{{task="{task}",type="{kind}",worker="{worker}"}} {count}.0'
        for kind, task, worker, count in told
    )

    assert succeeded(metrics) == 42


def a_latency() -> Latency:
    """What calm arrivals met."""
    return Latency(
        system="reserva",
        scenario="calm",
        per_second=50,
        followed=600,
        p50_ms=3.25,
        p95_ms=8.5,
        p99_ms=19.5,
        late_p99_ms=0.25,
        longest_answer_ms=31.0,
        cpu_us={},
        load_us=0.0,
        statuses={202: 600},
    )


def a_round(system: str, orders_per_s: float, **more: Any) -> Round:
    return replace(
        Round(
            system=system,
            scenario="spread",
            orders=1000,
            lines=3000,
            seconds=1000 / orders_per_s,
            posting_s=0.1,
            cpu_us={"web": 100.0, "worker": 60.0, "redis": 60.0, "postgres": 20.0, "flower": 900.0},
            load_us=12.0,
            statuses={202: 1000},
        ),
        **more,
    )


def data_of(*found: Round, **more: Any) -> results.Data:
    """Findings as they come back from the JSON file."""
    return json.loads(json.dumps(results.as_data(Findings(rounds=list(found), **more), form="quick")))


def verdicts(data: results.Data) -> dict[str, tuple[str, str]]:
    return {name: (measured, verdict) for name, _, measured, verdict in judge(data)}


def test_targets_are_judged_by_medians() -> None:
    found = verdicts(
        data_of(
            *(a_round("reserva", rate) for rate in (5_000, 6_000, 9_000)),
            *(a_round("textbook", rate) for rate in (100, 150, 300)),
            a_round("celery no-op", 1_000),
        )
    )

    assert found["1,000 SKUs, 3 lines, against the textbook"] == ("40.0 x", "met")
    assert found["1,000 SKUs, 3 lines, against Celery doing nothing"] == ("6.0 x", "MISSED")
    assert found["CPU per order, all processes"] == ("240.0 us", "met")
    assert found["one hot SKU, against the textbook"] == ("not measured", "")


def test_a_wrong_round_is_no_result() -> None:
    wrong = a_round("reserva", 123_456, faults=["1 accepted orders lost"])

    data = data_of(a_round("textbook", 100), wrong, wrong=["reserva, spread: 1 accepted orders lost"])

    assert verdicts(data)["1,000 SKUs, 3 lines, against the textbook"] == ("not measured", "")
    assert "123,456" not in report.render(data)
    assert "- reserva, spread: 1 accepted orders lost" in report.render(data)


def test_growth_is_judged_against_the_system_that_did_not_grow() -> None:
    grown, small = a_round("grown", 4_500), a_round("small", 6_000)

    found = verdicts(data_of(curves={"stored": [point(0, [small], [small]), point(1e6, [grown], [small])]}))

    assert found["slowdown with 1,000,000 stored orders"] == ("25.0 %", "MISSED")


def test_everything_measured_is_in_the_report_and_in_the_plots(tmp_path: Path) -> None:
    calm = a_latency()
    wrong = replace(calm, p99_ms=1.5, faults=["an order was lost"])
    curve = [point(size, [a_round("grown", 5_000)]) for size in (1, 1000)]
    data = data_of(
        a_round("reserva", 5_432),
        latency=[calm, replace(calm, p99_ms=17.5), replace(calm, p99_ms=31.5), wrong],
        curves={"lines": curve, "workers": curve},
        memory_mib={"reserva": {"web": 120.0, "worker": 95.0}},
        notes=["a note"],
    )

    text = report.render(data)
    pictures = list(plots.draw(data, tmp_path))

    assert all(
        word in text
        for word in (
            "5,432",
            "| 19.5   | 17.5 to 31.5 ",
            "Lines per order",
            "Worker processes",
            "215",
            "- a note",
        )
    )
    assert [picture.name for picture in pictures] == ["side-by-side.svg", "growth.svg"]
    assert all("</svg>" in picture.read_text() for picture in pictures)


def test_spread_orders_name_different_skus_and_are_the_same_in_each_run() -> None:
    first, again = traffic.spread()(50), traffic.spread()(50)

    assert first == again
    assert all(len({sku for sku, _ in order}) == 3 for order in first)


def test_of_two_states_each_comes_first_as_often_as_second() -> None:
    assert list(compare._in_turn(("before", "now"), 3)) == ["before", "now", "now", "before", "before", "now"]


def test_a_comparison_gives_the_ratios_of_the_pairs() -> None:
    def found(system: str, p99_ms: float) -> Latency:
        return replace(a_latency(), system=system, scenario="busy", p99_ms=p99_ms)

    pairs = [found("before", 10), found("now", 30), found("now", 10), found("before", 20)]

    row = compare._row("busy", "p99 ms", pairs, lambda one: one.p99_ms)

    assert row == [
        "busy",
        "p99 ms",
        "15.0",
        "20.0",
        "1.750",
        "0.500 to 3.000",
        "10.0 to 20.0",
        "10.0 to 30.0",
    ]


def test_a_comparison_with_a_state_that_is_not_there_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["no-such-revision"]) == 2
    assert "no-such-revision" in capfd.readouterr().err
