"""The documentation for people: every command is run, every link leads somewhere, whatever is named exists."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import pages
from tests.pages import ROOT, Page
from tests.test_up import ADDRESSES, Up
from workers.embedded import PostgresServer

#: Commands that are not run here, by how they begin, and why.
NOT_RUN = {
    r"docker |old=\$\(docker ": "there is no Docker here; tests/test_compose.py reads what it would start",
    r"make up\b": "runs until it is stopped: the system that the commands are run against is what it starts",
    r"make demo\b": "tests/test_demo.py holds smaller sales",
    r"make (test|lint|format)\b": "this is it",
    r"make (setup|bench|chaos|model)\b": "minutes; their parts have tests of their own",
    r"(RELEASE_BEFORE=\S+ )?pytest |python -m tests\.mutants ": "tests that run tests would start all servers again",
}
#: Pages whose commands want servers of their own, and the tests that run each of them.
RUN_ELSEWHERE = {"docs/backup-and-restore.md": "tests/test_backup.py"}

PAGES = [pytest.param(page, id=page.name) for page in pages.pages()]


def reason_not_to_run(command: str) -> str | None:
    """Why a command is not run here, None if it is."""
    return next((why for start, why in NOT_RUN.items() if re.match(start, command.strip())), None)


class Reader:
    """Somebody who types what a page says, in one shell, in a copy of the project, beside a running `make up`."""

    def __init__(self, up: Up, programs: Path) -> None:
        self._up = up
        status = up.status
        redis = urlsplit(status["redis_url"])
        self._env = {name: value for name, value in up.environment.items() if name not in ADDRESSES} | {
            "PATH": f"{Path(sys.executable).parent}:{programs}:{os.environ['PATH']}",
            "SHOP_URL": status["web_url"],
            "API_KEY": status["api_key"],
            "DATABASE_URL": status["database_url"],
            "REDIS_URL": status["redis_url"],
            "REDIS_HOST": str(redis.hostname),
            "REDIS_PORT": str(redis.port),
            "REDISCLI_AUTH": str(redis.password),
        }

    def type(self, folder: Path, commands: list[str]) -> "subprocess.CompletedProcess[str]":
        """Run the commands, each only if those before it went well; what they printed, errors too."""
        for path in ROOT.iterdir():
            if path.name not in {".git", ".venv"}:
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)
        script = "\n".join(["set -eu -o pipefail -o xtrace", *commands])
        for address, real in {"8000": "web_url", "5555": "flower_url"}.items():
            script = script.replace(f"http://127.0.0.1:{address}", self._up.status[real])
        return subprocess.run(
            ["bash", "-c", script],
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=self._env | {"HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Reader]:
    up = Up(tmp_path_factory.mktemp("up"), WEB_WORKERS="1")
    try:
        up.start()
        yield Reader(up, PostgresServer(tmp_path_factory.mktemp("programs")).programs)
    finally:
        up.stop()


@pytest.mark.parametrize("page", [page for page in PAGES if page.id not in RUN_ELSEWHERE])
def test_every_command_works(page: Page, reader: Reader, tmp_path: Path) -> None:
    wanted = [command for command in page.commands() if not reason_not_to_run(command)]

    done = reader.type(tmp_path, wanted)

    assert done.returncode == 0, done.stdout


def test_a_command_that_does_not_work_is_found(reader: Reader, tmp_path: Path) -> None:
    page = Page(path=ROOT / "README.md", text="```sh\ntrue\nno-such-program\ntrue\n```\n")

    assert reader.type(tmp_path, page.commands()).returncode != 0


@pytest.mark.parametrize("page", RUN_ELSEWHERE)
def test_pages_that_are_run_elsewhere_are_run_there(page: str) -> None:
    test = (ROOT / RUN_ELSEWHERE[page]).read_text()
    headings = re.findall(r"^#+ ([^\n]+)\n(?:(?!^#).)*?^```sh", (ROOT / page).read_text(), re.M | re.S)

    assert headings
    assert [heading for heading in headings if f'"{heading}"' not in test] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_and_what_is_named_exists(page: Page) -> None:
    assert pages.faults(page) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[there](docs/nowhere.md)", "link docs/nowhere.md"),
        ("[there](ARCHITECTURE.md#no-such-heading)", "link ARCHITECTURE.md#no-such-heading"),
        ("[there](#nor-here)\n\n# Here", "link #nor-here"),
        ("see `shop/nothing.py`", "file shop/nothing.py"),
        ("set `NO_SUCH_SETTING=1`", "name NO_SUCH_SETTING"),
        ("```ini\nNOTHING_OF_OURS=1\n```\n", "NOTHING_OF_OURS is no setting"),
        ("run `make nothing`", "make nothing"),
        ("run `make bench NOTHING=1`", "make NOTHING="),
        ("run `python manage.py nothing`", "manage.py nothing"),
        ("run `python manage.py reconcile --quickly`", "manage.py reconcile --quickly"),
        ("```sh\npython manage.py replay x --quickly\n```\n", "manage.py replay --quickly"),
        ("held by `test_that_nobody_wrote...`", "test test_that_nobody_wrote..."),
        ("```\nls\n```\n", "block of no language"),
        ("So:\n\n    ls\n", "indented block: ls"),
    ],
)
def test_what_is_wrong_with_a_page_is_found(text: str, fault: str) -> None:
    assert pages.faults(Page(path=ROOT / "README.md", text=text)) == [fault]


def test_what_is_right_is_no_fault() -> None:
    text = """# A [heading](README.md) with `code`

[here](#a-heading-with-code), `make bench QUICK=1`, `WEB_PORT`, `decide.sql`, `shop/keys.py`

- an item

      that goes on
"""

    assert pages.faults(Page(path=ROOT / "README.md", text=text)) == []


def test_a_command_may_go_on_over_lines() -> None:
    block = "a \\\n  b\ncat <<END\nc\nEND\nd 'e\nf' # g\n# alone\n\nh"

    assert pages.commands(block) == ["a \\\n  b", "cat <<END\nc\nEND", "d 'e\nf' # g", "h"]


def test_no_reason_not_to_run_something_is_left_over() -> None:
    commands = [command.strip() for page in pages.pages() for command in page.commands()]
    unused = [start for start in NOT_RUN if not any(re.match(start, command) for command in commands)]

    assert unused == []


def test_the_test_that_contributing_shows_is_one_of_ours() -> None:
    (shown,) = Page(path=ROOT, text=(ROOT / "CONTRIBUTING.md").read_text()).blocks("python")

    assert shown in pages.tests()
