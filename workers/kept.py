"""One part that is kept running: started again when it ends, does not get ready, or shows no sign of life."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from workers.processes import Child, PartFailedError
from workers.sign_of_life import Replaced

RESTART_DELAY_S: Final = 0.2
RESTART_DELAY_MAX_S: Final = 10.0
#: A part that ran for so long has recovered: its next failure counts as the first.
STEADY_AFTER_S: Final = 30.0


class Kept:
    """A part that is to run, and what is known of its present process."""

    def __init__(self, child: Child) -> None:
        self.part = child.part
        self.is_ready = True
        self.child: Child | None = child
        self._since = time.monotonic()
        self._failures = 0
        self._start_at = 0.0
        self._cause = "ended"

    def pids_among(self, children: Mapping[int, Sequence[int]]) -> list[int]:
        """The main process, then those below it."""
        return self.child.pids_among(children) if self.child else []

    def attend(self, tell: Callable[[str], None]) -> None:
        """Take the next step, if there is one to take, towards a part that runs and is ready."""
        if self.child is None:
            if time.monotonic() >= self._start_at:
                self._restart(tell)
        elif ending := self.child.ending:
            self._bury(f"ended with {ending}", tell)
        elif self.child.is_silent():
            self.child.end_silent()
            self._bury(f"showed no sign of life for {self.child.silence_s:.0f} s", tell, cause="silent")
        elif not self.is_ready:
            if self.part.is_ready():
                self.is_ready = True
                tell(f"{self.part.name} is up again")
            elif time.monotonic() - self._since > self.part.ready_within_s:
                self._bury("did not get ready", tell)

    def insist(self) -> None:
        """Raise PartFailedError if it does not run."""
        if self.child and self.child.ending:
            raise self.child.failure(f"ended with {self.child.ending}")

    def stop(self, hurry: Callable[[], bool]) -> bool:
        """Stop it. True if no force was needed."""
        return self.child.stop(hurry) if self.child else True

    def _restart(self, tell: Callable[[str], None]) -> None:
        self._since = time.monotonic()
        try:
            self.child = Child(self.part, Replaced(part=self.part.kind, cause=self._cause))
        except (OSError, PartFailedError) as error:
            self._bury(f"could not be started: {error}", tell)

    def _bury(self, what_happened: str, tell: Callable[[str], None], cause: str = "ended") -> None:
        self._cause = cause
        if self.child:
            # The children of a killed process live on, hold its port and do its work.
            self.child.kill()
            self.child = None
        self.is_ready = False
        now = time.monotonic()
        self._failures = 1 if now - self._since > STEADY_AFTER_S else self._failures + 1
        delay_s = min(RESTART_DELAY_S * 2 ** (self._failures - 1), RESTART_DELAY_MAX_S)
        self._start_at = now + delay_s
        tell(f"{self.part.name} {what_happened}; starting it again in {delay_s:g} s")
