"""The named fail points inside the system's own processes (`workers.fail_points`), which are armed by a file each."""

import csv
import os
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Final

from shop import keys
from tests.chaos.fault import Fault, NotInjected
from tests.chaos.redis_faults import delete_queue
from tests.chaos.site import Site
from workers.processes import PartFailedError

#: Nobody orders it, so that nobody but `reconcile` mends its counter.
QUIET_SKU: Final = "quiet-0"


def _load_catalogue(site: Site, random: Random) -> None:
    """Another product, in a file; whether it is on sale afterwards, too, the operator sees by doing it again."""
    sku = f"late-{random.getrandbits(32):08x}"
    path = site.folder / "late.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["sku", "name", "price", "stock"], [sku, "A late product", "1.00", 50]])
    for _ in range(2):
        with suppress(PartFailedError):
            site.manage("load_catalogue", str(path))
            site.late_skus.add(sku)


def _reconcile(site: Site, _: Random) -> None:
    site.redis.set(keys.stock(QUIET_SKU), "many")
    for _again in range(2):
        with suppress(PartFailedError):
            site.manage("reconcile", "--repair")


def _nothing(_: Site, __: Random) -> None:
    """The clients get there by themselves."""


_Provoke = Callable[[Site, Random], None]

#: Each point, what leads a process there, how long that may take at most, and whether it is a command of the operator.
POINTS: Final[tuple[tuple[str, _Provoke, float], ...]] = (
    ("web.before_claim", _nothing, 1.0),
    ("web.after_claim", _nothing, 1.0),
    ("web.before_answer", _nothing, 1.0),
    ("worker.received", _nothing, 2.0),
    ("worker.before_reserve", _nothing, 2.0),
    ("worker.after_reserve", _nothing, 2.0),
    ("worker.before_commit", _nothing, 2.0),
    ("worker.after_commit", _nothing, 2.0),
    ("worker.before_settle", _nothing, 2.0),
    ("worker.after_settle", _nothing, 2.0),
    ("worker.before_acknowledge", _nothing, 2.0),
    ("sweeper.before_requeue", delete_queue, 28.0),
    ("cancel.before_books", _nothing, 3.0),
    ("cancel.after_books", _nothing, 3.0),
    ("cancel.after_settle", _nothing, 3.0),
    ("movement.before_books", _nothing, 3.0),
    ("movement.after_books", _nothing, 3.0),
    ("catalogue.before_load", _load_catalogue, 0.5),
    ("catalogue.after_books", _load_catalogue, 0.5),
    ("reconcile.before_repair", _reconcile, 0.5),
)


def _arm(point: str, provoke: _Provoke) -> Callable[[Site, Random], int]:
    def inject(site: Site, random: Random) -> int:
        before = _hits(site, point)
        actions = ["kill", "raise", f"delay {random.randint(300, 1500)}", f"stop {random.randint(300, 1500)}"]
        if random.random() < 0.1:
            actions = [f"stop {keys.LOCK_TTL_MS + 1000}"]
        draft = site.fail_points / "draft"
        draft.write_text(random.choice(actions))
        # Whole, or not there.
        os.replace(draft, site.fail_points / point)
        provoke(site, random)
        return before

    return inject


def _hits(site: Site, point: str) -> int:
    return len(list(site.fail_points.glob(f"{point}.*.hit")))


def _fault(point: str, provoke: _Provoke, within_s: float) -> Fault:
    def was_hit(site: Site, before: int) -> bool:
        return _hits(site, point) > before

    def disarm(site: Site, before: int) -> None:
        (site.fail_points / point).unlink(missing_ok=True)
        if not was_hit(site, before):
            raise NotInjected("nobody came by")

    return Fault(
        name=point,
        description=f"fail point `{point}`: SIGKILL, an error, a delay or SIGSTOP",
        answers=True,
        inject=_arm(point, provoke),
        heal=disarm,
        hold_s=(within_s, within_s),
        is_done=was_hit,
        is_rare=within_s > 10 or point.startswith(("catalogue", "reconcile")),
    )


FAULTS: Final = tuple(_fault(*point) for point in POINTS)
