"""Programs that some tests need and not every machine has.

Where one is missing, the tests that need it are not collected, and pytest's summary says so.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

from workers.processes import Child, Part

#: Where Debian keeps servers; a user's own path leaves it out.
_SERVERS: Final = "/usr/sbin"


@dataclass(frozen=True)
class Program:
    """A program under the `names` that it may have, the first that is there; `package` is Debian's, `files` the tests'."""

    names: Sequence[str]
    package: str
    files: str

    @cached_property
    def path(self) -> str | None:
        """Where it is, None where it is not."""
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), _SERVERS])
        return next((found for name in self.names if (found := shutil.which(name, path=path))), None)

    @property
    def installed(self) -> str:
        """Where it is, for tests that are only collected where it is there."""
        assert self.path, f"needs {self.names[0]} (Debian: apt-get install {self.package})"
        return self.path


class Running:
    """A server among these programs, which a test may start and stop again and again. `part` says how it runs."""

    part: Part

    def __init__(self) -> None:
        self._child: Child | None = None

    def start(self) -> Self:
        """Start it and wait until it answers. Raises PartFailedError."""
        self._child = Child(self.part)
        self._child.wait_ready()
        return self

    def stop(self) -> None:
        """Stop it where it runs."""
        if self._child:
            self._child.stop()
            self._child = None


CHROMIUM: Final = Program(
    ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"), "chromium", "browser/test_*.py"
)
PROMETHEUS: Final = Program(("prometheus",), "prometheus", "test_prometheus.py")
PROMTOOL: Final = Program(("promtool",), "prometheus", "test_prometheus.py")
NGINX: Final = Program(("nginx",), "nginx-light", "test_nginx.py")
PGBOUNCER: Final = Program(("pgbouncer",), "pgbouncer", "test_pgbouncer.py")
HAPROXY: Final = Program(("haproxy",), "haproxy", "test_haproxy.py")

ALL: Final = (CHROMIUM, PROMETHEUS, PROMTOOL, NGINX, PGBOUNCER, HAPROXY)


def uncollected(programs: Sequence[Program]) -> Iterator[str]:
    """The files, as globs from the folder of the tests, that need a program that is not there."""
    return (program.files for program in programs if program.path is None)


def left_out(programs: Sequence[Program]) -> str:
    """What a summary says of tests that need a program that is not there; empty where nothing is left out."""
    missing = [program for program in programs if program.path is None]
    if not missing:
        return ""
    files = ", ".join(dict.fromkeys(f"tests/{program.files}" for program in missing))
    packages = " ".join(dict.fromkeys(program.package for program in missing))
    names = ", ".join(program.names[0] for program in missing)
    return f"Left out, without {names} on this machine: {files} (Debian: apt-get install {packages})."
