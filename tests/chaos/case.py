"""A history and its evidence, and what the faults of its run may have cost by their nature."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final

from tests.chaos.evidence import Evidence
from tests.chaos.history import ENDED, OK, Operation
from tests.chaos.losses import Loss

#: Whoever takes over from a worker that died has published by then what it had decided.
PUBLISHED_WITHIN_S: Final = 30.0


class Case:
    """A history and its evidence. `never_short`: SKUs of which nobody can have bought or withdrawn all.

    `losses`: what the faults may have cost by their nature; whatever else is gone is lost. `blind`: from when to when the
    web tier could not ask PostgreSQL, in Unix times.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        evidence: Evidence,
        *,
        never_short: Iterable[str] = (),
        losses: Sequence[Loss] = (),
        blind: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.operations = operations
        self.evidence = evidence
        self.never_short = frozenset(never_short)
        self.losses = losses
        self.blind = blind

    def may_be_gone(self, order_id: str) -> bool:
        """Whether a fault may have destroyed all that was known of an order: accepted before, never again since."""
        is_undecided = not any(one.state in ENDED for one in self.seen.get(order_id, ()))
        return is_undecided and any(
            order_id in loss.orders
            and all(answer.start < loss.ended for answer in self.accepted.get(order_id, ()))
            for loss in self.losses
        )

    def may_be_rolled_back(self, order_id: str, told: Operation | None = None) -> bool:
        """Whether Redis may have gone back to before the order's cancellation, and say so (in this answer)."""
        return any(
            loss.is_rollback and order_id in loss.wishes and (told is None or told.end > loss.began)
            for loss in self.losses
        )

    def may_be_taken_for_new(self, told: Operation) -> bool:
        """Whether nobody could know then that the order had ended: Redis had lost it, and PostgreSQL was away."""
        before = [one.start for one in self.accepted.get(told.id, ()) if one.end < told.start]
        return self._is_blind(told) and any(
            loss.ended > min(before, default=told.end)
            and loss.began < told.end
            and (loss.touched is None or told.id in loss.touched)
            for loss in self.losses
        )

    def may_be_another(self, told: Operation) -> bool:
        """Whether Redis had lost the order while a worker had it in hand, and that had not decided it yet."""
        row = self.evidence.orders.get(told.id)
        decided_at = row.committed_at if row else None
        return decided_at is not None and any(
            told.id in loss.orders and loss.began < told.end and told.start < decided_at
            for loss in self.losses
        )

    def may_be_unpublished(self, told: Operation) -> bool:
        """Whether the order's end may not have been in Redis yet, its worker having died, and PostgreSQL was away."""
        row = self.evidence.orders.get(told.id)
        decided_at = row.committed_at if row else None
        return (
            self._is_blind(told) and decided_at is not None and told.start < decided_at + PUBLISHED_WITHIN_S
        )

    def _is_blind(self, told: Operation) -> bool:
        return any(from_s <= told.end and told.start <= until_s for from_s, until_s in self.blind)

    def may_be_forgotten(self, wish: Operation) -> bool:
        """Whether a fault may have destroyed the note that an order is to be cancelled."""
        return any(wish.id in loss.wishes and wish.start < loss.ended for loss in self.losses)

    @cached_property
    def accepted(self) -> Mapping[str, list[Operation]]:
        """The answers that accepted an order, by its id."""
        found: dict[str, list[Operation]] = {}
        for one in self.operations:
            if one.op == "order" and one.outcome == OK:
                found.setdefault(one.id, []).append(one)
        return found

    @cached_property
    def asked(self) -> Mapping[str, list[Operation]]:
        """All requests under a key."""
        found: dict[str, list[Operation]] = {}
        for one in self.operations:
            if one.key:
                found.setdefault(one.key, []).append(one)
        return found

    @cached_property
    def seen(self) -> Mapping[str, list[Operation]]:
        """The answers that told an order's state."""
        found: dict[str, list[Operation]] = {}
        for one in self.operations:
            if one.state:
                found.setdefault(one.id, []).append(one)
        return found
