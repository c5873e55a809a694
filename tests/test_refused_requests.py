"""How often a client's requests may be refused before it has to wait."""

from shop.web.problems import Kind
from shop.web.refusals import Refusals, too_many

PER_SECOND = 10


class Clock:
    """A clock that is set by hand."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def refused(refusals: Refusals, times: int, client: str = "shop", body_bytes: int = 0) -> None:
    for _ in range(times):
        refusals.count(client, body_bytes)


def test_four_seconds_worth_of_requests_may_be_refused_at_once_and_one_more_has_to_wait() -> None:
    refusals = Refusals(PER_SECOND, Clock())

    refused(refusals, 4 * PER_SECOND)
    assert refusals.wait_s("shop") == 0
    refused(refusals, 1)

    assert refusals.wait_s("shop") == 1


def test_a_client_that_waits_as_long_as_it_is_told_has_room_again() -> None:
    clock = Clock()
    refusals = Refusals(PER_SECOND, clock)
    refused(refusals, 8 * PER_SECOND)

    wait_s = refusals.wait_s("shop")
    clock.now += wait_s

    assert (wait_s, refusals.wait_s("shop")) == (4, 0)


def test_a_large_body_counts_as_many_small_ones() -> None:
    refusals = Refusals(PER_SECOND, Clock())

    refused(refusals, 1, body_bytes=80 * Refusals.BYTES_FOR_ONE)

    assert refusals.wait_s("shop") == 5


def test_one_client_s_refusals_are_no_other_client_s() -> None:
    refusals = Refusals(PER_SECOND, Clock())

    refused(refusals, 1_000)

    assert refusals.wait_s("another") == 0


def test_a_rate_of_nothing_is_no_limit() -> None:
    refusals = Refusals(0, Clock())

    refused(refusals, 100_000)

    assert refusals.wait_s("shop") == 0


def test_clients_that_have_waited_long_enough_are_forgotten() -> None:
    clock = Clock()
    refusals = Refusals(PER_SECOND, clock)
    for number in range(Refusals.CLIENTS_KEPT):
        refused(refusals, 1, client=str(number))

    clock.now += 1
    refused(refusals, 100)

    assert list(refusals._full_at) == ["shop"]


def test_a_client_that_has_to_wait_is_told_for_how_long() -> None:
    problem = too_many(3)

    assert (problem.kind, problem.headers["Retry-After"]) == (Kind.RATE_LIMITED, "3")
