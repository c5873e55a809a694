"""What people see of a long work, on a terminal and in a log."""

import io

from shop.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def shown(stream: io.StringIO, *moments: tuple[float, int]) -> str:
    """What is written when these (seconds, steps done of 100) are reported."""
    clock = Clock()
    with Progress("orders", 100, stream=stream, clock=clock) as progress:
        for clock.now_s, done in moments:
            progress.show(done, "some confirmed")
    return stream.getvalue()


def test_a_terminal_has_one_line_that_is_redrawn_with_a_bar_and_the_time_left() -> None:
    text = shown(Terminal(), (1.0, 25), (2.0, 50), (4.0, 100))

    drawn = [line.rstrip() for line in text.rstrip("\n").split("\r")[1:]]
    assert text.count("\n") == 1
    assert drawn[1] == "████████████░░░░░░░░░░░░ orders  50%  50 of 100  some confirmed  2 s left"
    assert drawn[2] == "████████████████████████ orders 100%  100 of 100  some confirmed"


def test_a_log_gets_a_plain_line_now_and_then_and_the_last_state() -> None:
    moments = [(second / 10, second) for second in range(101)]

    lines = shown(io.StringIO(), *moments).splitlines()

    assert lines == [
        "orders   5%  5 of 100  some confirmed  9 s left",
        "orders  55%  55 of 100  some confirmed  4 s left",
        "orders 100%  100 of 100  some confirmed",
    ]


def test_a_work_that_is_done_at_once_shows_nothing() -> None:
    assert shown(io.StringIO(), (0.1, 50), (0.2, 100)) == ""
    assert shown(Terminal(), (0.1, 50), (0.2, 100)) == ""


def test_a_work_without_steps_is_done() -> None:
    stream, clock = io.StringIO(), Clock()

    with Progress("orders", 0, stream=stream, clock=clock) as progress:
        clock.now_s = 1.0
        progress.show(0)

    assert stream.getvalue() == "orders 100%  0 of 0\n"
