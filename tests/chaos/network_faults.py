"""Ways to the stores that are slow, silent, cut in one direction, or closed."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Final

from tests.chaos.fault import Fault, NotInjected
from tests.chaos.proxy import FaultProxy, Trouble
from tests.chaos.site import Site

Way = Callable[[Site], FaultProxy]


def _share(random: Random) -> float:
    """Of the connections: all, or about half of them."""
    return random.choice((1.0, 0.5))


def _make(way: Way, **trouble: bool | float) -> Callable[[Site, Random], None]:
    def inject(site: Site, random: Random) -> None:
        way(site).trouble(Trouble(share=_share(random), **trouble))  # type: ignore[arg-type]

    return inject


def _delay(way: Way) -> Callable[[Site, Random], None]:
    def inject(site: Site, random: Random) -> None:
        way(site).trouble(Trouble(delay_s=random.uniform(0.03, 0.4), share=_share(random)))

    return inject


def _reset(way: Way) -> Callable[[Site, Random], None]:
    def inject(site: Site, random: Random) -> None:
        if not way(site).reset(_share(random)):
            raise NotInjected("no connection was open")

    return inject


def _refuse(way: Way) -> Callable[[Site, Random], None]:
    def inject(site: Site, _: Random) -> None:
        way(site).trouble(Trouble(refuses=True))
        way(site).reset()

    return inject


def _heal(way: Way) -> Callable[[Site, object], None]:
    return lambda site, _: way(site).heal()


def _faults(store: str, name: str, way: Way, *, answers: bool) -> Iterator[Fault]:
    troubles = (
        ("slow", "30 to 400 ms later in each direction", _delay(way), (0.4, 1.4), True),
        ("silent", "nothing arrives; what was sent arrives afterwards", _make(way, is_silent=True), (0.4, 2.5), False),
        ("reset", "connections reset", _reset(way), (0.0, 0.0), True),
        ("refused", "connections reset, new ones refused", _refuse(way), (0.3, 1.4), False),
        ("replies-lost", "commands arrive, replies are lost, then reset", _make(way, loses_replies=True), (0.3, 1.4), False),
        ("commands-lost", "commands are lost, then reset", _make(way, loses_commands=True), (0.3, 1.4), False),
        ("trickling", "4,000 bytes a second", _make(way, bytes_per_s=4_000), (0.4, 1.4), False),
    )  # fmt: skip
    for suffix, description, inject, hold_s, always in troubles:
        yield Fault(
            name=f"{name}-{suffix}",
            description=f"the way to {store}: {description}",
            answers=answers or always,
            inject=inject,
            heal=_heal(way),
            hold_s=hold_s,
        )


def _cut_commits(site: Site, random: Random) -> int:
    before = site.postgres_proxy.commits_cut
    site.postgres_proxy.trouble(Trouble(cuts_commits=random.randint(1, 3)))
    return before


def _has_cut(site: Site, before: int) -> bool:
    return site.postgres_proxy.commits_cut > before


def _end_cutting(site: Site, before: int) -> None:
    site.postgres_proxy.heal()
    if not _has_cut(site, before):
        raise NotInjected("nothing was committed")


FAULTS: Final = (
    *_faults("Redis", "redis", lambda site: site.redis_proxy, answers=False),
    *_faults("PostgreSQL", "postgres", lambda site: site.postgres_proxy, answers=True),
    Fault(
        name="commits-cut",
        description="PostgreSQL commits, and instead of its reply comes a reset",
        answers=True,
        inject=_cut_commits,
        heal=_end_cutting,
        hold_s=(2.0, 2.0),
        is_done=_has_cut,
    ),
)
