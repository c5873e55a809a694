"""Time limits that end a job, and no process that waits for one.

A worker's main process tells a process of its pool when a job takes too long, and may be late: whatever kept it from its
loop, a broker that was away or a machine that stood still, it looks at its clock first and hears then that the job is done.
billiard raises all the same, in a process that waits for its next job, and that ends it.
"""

from types import FrameType

from billiard import pool
from billiard.exceptions import SoftTimeLimitExceeded


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Handle the signal of a soft limit. Raises `SoftTimeLimitExceeded` where a job is being done."""
    called = frame
    while called and called.f_back and called.f_back.f_code is not pool.Worker.workloop.__code__:
        called = called.f_back
    is_in_loop = called is not None and called.f_back is not None
    if called is not None and is_in_loop and not called.f_globals["__name__"].startswith("billiard."):
        raise SoftTimeLimitExceeded


def spare_the_idle() -> None:
    """Let processes that are forked from now on handle the signal so."""
    setattr(pool, "soft_timeout_sighandler", interrupt)  # noqa: B010 - it is no variable to a type checker
