"""How far a long work is: a line that is redrawn on a terminal, a plain line now and then elsewhere."""

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TextIO

#: Between two drawings: often enough to look alive on a terminal, seldom enough for a log.
REDRAW_S: Final = 0.1
PLAIN_LINE_S: Final = 5.0
#: A work that is done sooner shows nothing.
SHOW_AFTER_S: Final = 0.5
BAR_WIDTH: Final = 24


class Progress:
    """Progress of `total` steps on standard error.

    with Progress("orders", 8126) as progress:
        progress.show(100, "98 confirmed")
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._total = total
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._clock = clock
        self._began = clock()
        self._next = self._began + SHOW_AFTER_S
        self._last: tuple[int, str] | None = None
        self._drawn: tuple[int, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen, if anything was shown."""
        if self._drawn and self._last and self._last != self._drawn:
            self._draw(*self._last)
        if self._drawn and self._on_terminal:
            self._stream.write("\n")
            self._stream.flush()

    def show(self, done: int, note: str = "") -> None:
        """Say how many steps are done; `note` is whatever else is worth telling."""
        self._last = (done, note)
        if self._clock() >= self._next:
            self._draw(done, note)

    def _draw(self, done: int, note: str) -> None:
        self._next = self._clock() + (REDRAW_S if self._on_terminal else PLAIN_LINE_S)
        self._drawn = (done, note)
        share = min(1.0, done / self._total) if self._total else 1.0
        told = [f"{done:,} of {self._total:,}", note, self._time_left(share)]
        line = f"{self._title} {share:4.0%}  " + "  ".join(part for part in told if part)
        if self._on_terminal:
            filled = round(share * BAR_WIDTH)
            bar = "█" * filled + "░" * (BAR_WIDTH - filled)
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r" + f"{bar} {line}"[:width].ljust(width))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _time_left(self, share: float) -> str:
        if not 0 < share < 1:
            return ""
        left_s = (self._clock() - self._began) * (1 - share) / share
        return f"{left_s:.0f} s left" if left_s < 120 else f"{left_s / 60:.0f} min left"
