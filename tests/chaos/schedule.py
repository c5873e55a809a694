"""Which faults come when, from a seed: the same seed gives the same faults, in the same order, with the same parameters."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.chaos.fault import Fault

#: Of the faults that come alone, every so many-th is waited for until all orders of its time have ended.
MEASURED_EVERY: Final = 7
#: Rare kinds are left out of so many decks, and then are in one.
RARE_EVERY: Final = 3


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A fault that is to be. `after_s`: from the beginning of its burst. `seed`: for what is left to chance in it."""

    fault: Fault
    after_s: float
    hold_s: float
    seed: str


@dataclass(frozen=True, kw_only=True)
class Burst:
    """Faults that overlap, and the pause after them. A measured one is a single fault, and waited for."""

    planned: Sequence[Planned]
    is_measured: bool
    pause_s: float


def bursts(seed: int, faults: Sequence[Fault]) -> Iterator[Burst]:
    """Without end: deck after deck of all kinds, each shuffled, dealt in bursts of one to six."""
    for deck in itertools.count():
        random = Random(f"{seed}/{deck}")
        turns = [(fault, seed + deck + number) for number, fault in enumerate(faults)]
        kinds = [one for one in turns if not one[0].is_rare or len(faults) < 2 * RARE_EVERY or _comes(one[1])]
        random.shuffle(kinds)
        while kinds:
            together = [kinds.pop()]
            is_measured = _is_measured(*together[0])
            size = 1 if is_measured else random.choices(range(1, 7), weights=(1, 2, 3, 3, 2, 2))[0]
            while kinds and len(together) < size and not _is_measured(*kinds[-1]):
                together.append(kinds.pop())
            planned = [_plan(fault, random) for fault, _ in together]
            yield Burst(planned=planned, is_measured=is_measured, pause_s=random.uniform(0.05, 0.3))


def _comes(turn: int) -> bool:
    """Whether it is a rare kind's turn."""
    return turn % RARE_EVERY == 0


def _is_measured(fault: Fault, turn: int) -> bool:
    """A rare kind is waited for every other time it comes."""
    return turn % (2 * RARE_EVERY if fault.is_rare else MEASURED_EVERY) == 0


def _plan(fault: Fault, random: Random) -> Planned:
    return Planned(
        fault=fault,
        after_s=random.uniform(0.0, 0.5),
        hold_s=random.uniform(*fault.hold_s),
        seed=f"{random.getrandbits(64):x}",
    )
