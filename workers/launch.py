"""Become another program, tied to the life of the one that asked.

    python launch.py PARENT SIGNAL NICENESS UID GID CAPABILITY PROGRAM [ARGUMENT ...]

This runs between fork and exec as a script of its own, because code in the forked child of a process with
threads may deadlock. PARENT is the process id that the program must not outlive, SIGNAL is what it gets when
PARENT dies; NICENESS is how far it stands back for others, setpriority(2); a UID of 0 means "whoever runs this", a
CAPABILITY of 0 means none. It imports nothing of the project, so that it starts in a few milliseconds.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import Final

# <linux/prctl.h> and <linux/capability.h>
PR_SET_PDEATHSIG: Final = 1
PR_SET_SECUREBITS: Final = 28
SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
LINUX_CAPABILITY_VERSION_3: Final = 0x20080522


def become(uid: int, gid: int, capability: int) -> None:
    """Switch to an unprivileged user; keep one capability, if any is named, across the switch and the exec.

    An ambient capability is the only kind that survives when an ordinary user runs an ordinary binary,
    capabilities(7). Without the secure bit, access(2) would not count it. Raises OSError.
    """
    if capability:
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if capability:
        _keep_only(capability)
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def end_with(parent: int, death_signal: int) -> None:
    """Have the kernel send `death_signal` when the parent dies, however it dies, prctl(2).

    A parent that died before the kernel knew of this wish would never be reported, so look once more.
    """
    _prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def stand_back(niceness: int) -> None:
    """Have others come first where processors are short.

    Between sessions, and each part is one, Linux weighs the session's own niceness, if it has one: sched(7), autogroup.
    """
    os.nice(niceness)
    with suppress(OSError), open("/proc/self/autogroup", "w") as session:
        session.write(str(niceness))


def _keep_only(capability: int) -> None:
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    mask = 1 << capability
    low, high = mask & 0xFFFFFFFF, mask >> 32
    # Two words of 32 bits, each for effective, permitted, inheritable.
    sets = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    _check(ctypes.CDLL(None, use_errno=True).capset(header, sets), "capset")


def _prctl(option: int, argument: int, second: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = [ctypes.c_ulong(number) for number in (argument, second, 0, 0)]
    _check(libc.prctl(option, *numbers), f"prctl({option})")


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def main(arguments: list[str]) -> None:
    """Do as the command line says, then exec. Never returns."""
    parent, death_signal, niceness, uid, gid, capability = map(int, arguments[:6])
    program = arguments[6:]
    if niceness:
        stand_back(niceness)
    if uid:
        become(uid, gid, capability)
    if sys.platform == "linux":
        # After the change of user, because that change clears the wish.
        end_with(parent, death_signal)
    os.execvp(program[0], program)  # noqa: S606 - the very purpose of this script


if __name__ == "__main__":
    main(sys.argv[1:])
