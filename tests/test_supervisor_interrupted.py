"""A supervisor that was killed, or whose `make` alone heard the signal: no program is left running."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.builders import wait_until
from workers.proc import is_running, marked_with
from workers.supervisor import MARK, Supervisor

ROOT = Path(__file__).parent.parent


def test_what_a_killed_supervisor_left_is_ended_by_the_next(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    # In a session of its own the grandchild outlives its parent, which tells its number once it is the program it is to be.
    web = (
        "import os, subprocess\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "child.wait()"
    )
    program = f"""
import sys
from pathlib import Path
from workers.processes import Part
from workers.supervisor import Supervisor
with Supervisor(Path({str(tmp_path)!r}), say=print, changed=lambda pids: None) as system:
    system.start(Part(name="web", argv=[sys.executable, "-c", {web!r}], log=Path({str(log)!r})))
    system.keep()
"""
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL)
    with killed:
        wait_until(lambda: log.exists() and "\n" in log.read_text(), what="parent and child")
        parent, child = map(int, log.read_text().split())
        killed.kill()
    wait_until(lambda: not is_running(parent))
    assert is_running(child)

    with Supervisor(tmp_path, say=print, changed=lambda _: None):
        assert not is_running(child)


def test_an_interrupt_that_only_make_got_stops_the_system_too(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from workers.processes import Part
from workers.supervisor import Supervisor
folder = Path({str(tmp_path)!r})
with Supervisor(folder, say=print, changed=lambda pids: print("complete", flush=True)) as system:
    system.start(Part(name="web", argv=["sleep", "600"], log=folder / "web.log"))
    system.keep()
""")
    (tmp_path / "Makefile").write_text(f"up:\n\t@exec {sys.executable} {program}\n")
    make = subprocess.Popen(
        ["make", "-C", tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        # As a terminal starts it: a suite that runs in the background has been told to ignore Ctrl-C, and so would make.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs here
    )
    with make:
        assert make.stdout
        assert any("complete" in line for line in make.stdout)

        make.send_signal(signal.SIGINT)

        wait_until(lambda: make.poll() is not None, what="the end of make")
        assert make.returncode != 0
    assert not marked_with(MARK, str(tmp_path))
