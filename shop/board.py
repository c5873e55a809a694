"""What the live board shows: one look at the system per second and process, however many people look at the board.

All text is made here, once, so that a page without script and one with it say the same, and a browser has only to put it
in its place.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final

import msgspec

from shop import figures, keys, system_state
from shop.figures import ASKED, BATCH_ORDERS, BUSY, ENDED, INTAKE, ORDER_MS, SOLD
from shop.pauses import Part
from shop.stores import TextRedis, store_faults, web_thread_redis
from shop.system_state import SystemState
from workers import heartbeat
from workers.sign_of_life import SILENT_S

#: A look is taken again when it is so old.
FRESH_S: Final = 1.0
#: Seconds of the past that the charts show.
HISTORY_S: Final = 180
#: A browser that looked within so many seconds needs only these.
RECENT_S: Final = 15
#: A second is shown when it has been over for so long: by then its figures have come in, as a rule (`figures.LATE_S`).
TOLD_S: Final = 0.3
#: Figures of a second may still come in for so long after it.
OPEN_S: Final = 4
#: Rates are told as means over so many seconds, shares and quantiles over a minute.
RATE_S: Final = 3
MINUTE_S: Final = 60
#: Quantiles in the chart are those of so many seconds each: of one alone they would jump.
SMOOTHED_S: Final = 5
HOTTEST: Final = 8
HOT_MINUTES: Final = 5
QUANTILES: Final = (0.5, 0.95, 0.99)

REFUSED: Final = {
    "rate_limited": "over the client's rate",
    "queue_full": "no room for more",
    "paused": "intake paused",
    "unavailable": "a store away, or too busy",
    "reused": "key of another order",
}
#: How long the scheduler may miss its minute before the board says so.
RECONCILE_OLD_S: Final = 150
OLDEST_WARN_S, OLDEST_BAD_S = 5, 30
#: For how long the board shows that a process was replaced.
REPLACED_LATELY_S: Final = 900

#: Of what stands in a key of housekeeping that somebody has broken.
UNKNOWN: Final = "unknown"
GOOD, WARN, BAD, NEUTRAL = "good", "warn", "bad", "info"

_json = msgspec.json.Encoder()

#: Of one second: orders in, orders ended, orders open, orders refused, and the quantiles of the time to the end in ms, None
#: where nothing ended.
Row = list[float | None]


@dataclass(frozen=True, kw_only=True)
class Light:
    """A traffic light: what it watches, what it says, and its colour (`good`, `warn`, `bad`)."""

    name: str
    says: str
    colour: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the board shows at one moment. `second`: the newest one, in Unix time by Redis's clock.

    `text`: what stands in each place. `lights`: name, text and colour of each. `rows`: of the charts, one for each second up
    to `second`. `paused`: parts that are, so that a page knows when its buttons are old.
    """

    second: int
    text: dict[str, str]
    lights: list[Light]
    hottest: list[list[str]]
    workers: list[list[str]]
    batches: list[int]
    paused: list[str]
    rows: list[Row]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A snapshot and its documents: `whole` with all the past that the charts show, `recent` with its end."""

    snapshot: Snapshot
    taken_at: float
    whole: bytes
    recent: bytes
    tag: str


class Board:
    """The newest look at the system, taken when somebody wants one and the last one is old. For any thread."""

    def __init__(self, redis: Callable[[], TextRedis] = web_thread_redis) -> None:
        self._redis = redis
        self._looking = threading.Lock()
        self._shown: Shown | None = None
        self._seconds: dict[int, Mapping[str, int]] = {}
        self._rows: dict[int, Row] = {}

    def fresh(self) -> Shown | None:
        """The last look, if it is not old."""
        shown = self._shown
        return shown if shown and time.monotonic() - shown.taken_at < FRESH_S else None

    def shown(self) -> Shown:
        """A look at the system that is not old. Raises `StoreUnavailable`."""
        with self._looking:
            shown = self.fresh() or self._look()
            self._shown = shown
            return shown

    def _look(self) -> Shown:
        taken_at = time.monotonic()
        client = self._redis()
        state = system_state.look(client)
        newest = int(state.now_s - TOLD_S) - 1
        shown = range(newest - HISTORY_S + 1, newest + 1)
        self._read_seconds(client, shown)
        past = [self._seconds[second] for second in shown]
        minute = int(state.now_s) // 60
        ranked = figures.hottest(client, range(minute - HOT_MINUTES + 1, minute + 1))
        last_minute = summed(past[-MINUTE_S:])
        snapshot = Snapshot(
            second=newest,
            text=dict(_text(state, past[-RATE_S:], last_minute, figures.totals(client))),
            lights=list(_lights(state)),
            hottest=_hottest(client, ranked),
            workers=[[name, _age(age_s)] for name, age_s in sorted((state.workers or {}).items())],
            batches=BATCH_ORDERS.counts(last_minute)[:-1],
            paused=[str(part) for part in state.pauses],
            rows=self._charted(shown, past, state.open_orders),
        )
        recent = msgspec.structs.replace(snapshot, rows=snapshot.rows[-RECENT_S:])
        whole = _json.encode(snapshot)
        tag = f'"{hashlib.blake2b(whole, digest_size=12).hexdigest()}"'
        return Shown(snapshot=snapshot, taken_at=taken_at, whole=whole, recent=_json.encode(recent), tag=tag)

    def _read_seconds(self, client: TextRedis, shown: range) -> None:
        """Read the seconds that are not known or may still change, and forget those that are over."""
        wanted = [second for second in shown if second not in self._seconds or shown[-1] - second < OPEN_S]
        self._seconds |= dict(zip(wanted, figures.of_seconds(client, wanted), strict=True))
        self._seconds = {second: self._seconds[second] for second in shown}

    def _charted(self, shown: range, past: Sequence[Mapping[str, int]], open_now: int) -> list[Row]:
        """Rows of the charts; those that can't change any more are reckoned once."""
        still_open = _open(past, open_now)
        rows: dict[int, Row] = {}
        for at, second in enumerate(shown):
            known = self._rows.get(second)
            if known is None or shown[-1] - second < OPEN_S + SMOOTHED_S:
                known = _row(past[max(0, at - SMOOTHED_S + 1) : at + 1], still_open[at])
            rows[second] = known
        self._rows = rows
        return list(rows.values())


board = Board()


def summed(seconds: Sequence[Mapping[str, int]]) -> Counter[str]:
    """The figures of some seconds together."""
    sums: dict[str, int] = {}
    for second in seconds:
        for name, amount in second.items():
            sums[name] = sums.get(name, 0) + amount
    return Counter(sums)


def ended(counted: Mapping[str, int]) -> int:
    """Orders that came to their first final state."""
    return sum(ORDER_MS.counts(counted))


def refused(counted: Mapping[str, int]) -> int:
    """Orders that were posted and not taken."""
    return sum(counted.get(INTAKE + word, 0) for word in REFUSED)


def _row(recent: Sequence[Mapping[str, int]], still_open: int) -> Row:
    """A row of the charts: of the last of these seconds, but for its quantiles, which are those of all of them."""
    counted, window = recent[-1], summed(recent)
    quantiles = [ORDER_MS.quantile(share, window) for share in QUANTILES]
    told = [None if value is None else round(value, 1) for value in quantiles]
    return [counted.get(f"{INTAKE}accepted", 0), ended(counted), still_open, refused(counted), *told]


def _open(past: Sequence[Mapping[str, int]], open_now: int) -> list[int]:
    """How many orders were open after each second. It does not change in one in which nothing happened."""
    first = next((counted for counted in past if figures.OPEN in counted), None)
    if first is None:
        return [open_now] * len(past)
    before = first[figures.OPEN] - first.get(f"{INTAKE}accepted", 0) + ended(first)
    found = accumulate(past, lambda last, counted: counted.get(figures.OPEN, last), initial=max(0, before))
    return list(found)[1:]


# --- text -----------------------------------------------------------------------------------------


def _text(
    state: SystemState,
    newest: Sequence[Mapping[str, int]],
    minute: Mapping[str, int],
    totals: Mapping[str, int],
) -> Iterator[tuple[str, str]]:
    last = summed(newest)
    yield "time", datetime.fromtimestamp(state.now_s, UTC).strftime("%H:%M:%S UTC")
    yield "in", _number(last[f"{INTAKE}accepted"] / RATE_S)
    yield "out", _number(ended(last) / RATE_S)
    yield "open", _number(state.open_orders)
    yield "waiting", _number(state.waiting)
    yield "in_hand", _number(state.in_hand)
    yield "parked", "unknown" if state.parked is None else _number(state.parked)
    yield "oldest", "none" if state.oldest_s is None else _age(state.oldest_s)
    yield "workers", UNKNOWN if state.workers is None else _number(len(state.workers))
    for share in QUANTILES:
        yield f"p{share * 100:g}", _duration(ORDER_MS.quantile(share, minute))
    batches = sum(BATCH_ORDERS.counts(minute))
    yield "batch", f"{BATCH_ORDERS.total(minute) / batches:,.1f}" if batches else "–"  # noqa: RUF001 - no number
    for column, counted in (("minute", minute), ("total", totals)):
        yield f"refused_{column}", _number(refused(counted))
        for word in ("accepted", "replayed", *REFUSED):
            yield f"{word}_{column}", _number(counted.get(INTAKE + word, 0))
        for end in ("confirmed:", "rejected:insufficient_stock", "rejected:unknown_sku", "cancelled:"):
            yield f"{end}_{column}", _number(counted.get(ENDED + end, 0))
        failed = sum(times for name, times in counted.items() if name.startswith(f"{ENDED}failed:"))
        yield f"failed_{column}", _number(failed)
        yield f"units_{column}", _number(counted.get(figures.UNITS_SOLD, 0))
        yield f"lock_waits_{column}", _number(counted.get(figures.LOCK_WAITS, 0))


def _lights(state: SystemState) -> Iterator[Light]:
    yield _oversold(state)
    yield _reconciled(state)
    yield _oldest(state)
    yield _working(state)
    yield _replaced(state)
    yield _memory(state)


def _oversold(state: SystemState) -> Light:
    if state.reconcile is None:
        return Light(name="Oversold", says="not looked at yet", colour=WARN)
    skus = state.reconcile.oversold
    return Light(name="Oversold", says=f"{skus:,} SKUs" if skus else "0", colour=BAD if skus else GOOD)


def _reconciled(state: SystemState) -> Light:
    verdict, age_s = state.reconcile, state.reconciled_s
    if verdict is None or age_s is None:
        return Light(name="Stock agrees", says="never compared yet", colour=WARN)
    if not verdict.clean:
        return Light(name="Stock agrees", says=f"{verdict.left:,} differences left", colour=BAD)
    says = f"{verdict.skus:,} SKUs, {_age(age_s)} ago"
    return Light(name="Stock agrees", says=says, colour=WARN if age_s > RECONCILE_OLD_S else GOOD)


def _oldest(state: SystemState) -> Light:
    if Part.FULFILMENT in state.pauses:
        return Light(name="Oldest in line", says="fulfilment is paused", colour=WARN)
    if not state.waiting or state.oldest_s is None:
        return Light(name="Oldest in line", says="none waits", colour=GOOD)
    is_bad, is_slow = state.oldest_s > OLDEST_BAD_S, state.oldest_s > OLDEST_WARN_S
    colour = BAD if is_bad else WARN if is_slow else GOOD
    return Light(name="Oldest in line", says=_age(state.oldest_s), colour=colour)


def _working(state: SystemState) -> Light:
    if state.workers is None:
        return Light(name="Workers", says=f"unknown: key `{heartbeat.SEEN}` is broken", colour=WARN)
    if not state.workers:
        return Light(name="Workers", says="none", colour=BAD)
    if state.swept_s is None:
        return Light(name="Workers", says=f"{len(state.workers):,}, but no sweep for 30 s", colour=WARN)
    return Light(name="Workers", says=f"{len(state.workers):,} alive", colour=GOOD)


def _replaced(state: SystemState) -> Light:
    """The newest process that was replaced lately, and how many more there were."""
    lately = [each for each in state.replaced if state.now_s - each.at_ms / 1000 < REPLACED_LATELY_S]
    if not lately:
        return Light(name="Replaced processes", says="none lately", colour=GOOD)
    newest, others = lately[0], len(lately) - 1
    ago = _age(max(0.0, state.now_s - newest.at_ms / 1000))
    how = f"silent for {SILENT_S:.0f} s" if newest.cause == "silent" else newest.cause
    says = f"{newest.part}, {ago} ago: {how}" + (f"; {others} more" if others else "")
    return Light(name="Replaced processes", says=says, colour=WARN)


def _memory(state: SystemState) -> Light:
    memory = state.memory
    if memory is None or memory.limit_bytes is None:
        return Light(name="Redis's memory", says="unknown: nothing stops new orders", colour=WARN)
    says = f"{memory.used_bytes / memory.limit_bytes:.0%} used" + ": no new orders" * memory.is_short
    return Light(name="Redis's memory", says=says, colour=BAD if memory.is_short else GOOD)


def _hottest(client: TextRedis, ranked: Mapping[str, Counter[str]]) -> list[list[str]]:
    """SKUs that are wanted most: units asked for, units sold, units left, and how often an order met the lock."""
    skus = [sku for sku, _ in ranked[ASKED].most_common(HOTTEST)]
    with store_faults():
        left = client.mget([keys.stock(sku) for sku in skus]) if skus else []
    asked, sold, busy = ranked[ASKED], ranked[SOLD], ranked[BUSY]
    return [
        [sku, _number(asked[sku]), _number(sold[sku]), _units(units), _number(busy[sku])]
        for sku, units in zip(skus, left, strict=True)
    ]


def _units(counter: Any) -> str:
    try:
        return _number(int(counter))
    except (TypeError, ValueError):
        return "no counter"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _duration(value_ms: float | None) -> str:
    if value_ms is None:
        return "–"  # noqa: RUF001 - no number
    return f"{value_ms:,.0f} ms" if value_ms < 1_000 else f"{value_ms / 1_000:,.1f} s"


def _age(age_s: float) -> str:
    if age_s < 10:
        return f"{age_s:.1f} s"
    return f"{age_s:,.0f} s" if age_s < 120 else f"{age_s / 60:,.0f} min"
