"""The documentation for people, taken apart: what it says can be run, and what it names."""

import argparse
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from django.core.management import get_commands, load_command_class

ROOT: Final = Path(__file__).parent.parent
LANGUAGES: Final = {"sh", "python", "ini", "nginx", "mermaid", "json", "http", "yaml", "text"}
#: Names that are no settings of ours: what pages let their readers set, and what belongs to the kernel.
OTHER_NAMES: Final = {
    "SHOP",
    "SHOP_URL",
    "API_KEY",
    "REDIS_HOST",
    "REDIS_PORT",
    "REDISCLI_AUTH",
    "REDIS_DIR",
    "SO_REUSEPORT",
}

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|md|lua|sql|yaml|cfg|lock|toml|csv)")
_SETTING = re.compile(r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[A-Z]{4,}(?==))(?:=.*)?")
_TEST = re.compile(r"(test_\w+?)(?:\.\.\.)?")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of Markdown; `path` tells where its links start."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path from the project's root."""
        return str(self.path.relative_to(ROOT))

    @property
    def prose(self) -> str:
        """The text without its blocks of code."""
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """Its blocks of code in a language, without the indent of a list."""
        return [
            re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
            for indent, found, body in _FENCE.findall(self.text)
            if found == language
        ]

    def commands(self) -> list[str]:
        """Every command of its `sh` blocks, in order."""
        return [command for block in self.blocks("sh") for command in commands(block)]


def pages() -> list[Page]:
    """Every page for people."""
    paths = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
    return [Page(path=path, text=path.read_text()) for path in paths]


def commands(block: str) -> list[str]:
    """The commands of a block: lines, or several lines where quotes, here-documents or backslashes go on."""
    found: list[str] = []
    lines: list[str] = []
    for line in block.splitlines():
        lines.append(line)
        text = "\n".join(lines)
        if text.strip() and not text.strip().startswith("#") and _is_whole(text):
            found.append(text)
            lines = []
        elif not text.strip() or text.strip().startswith("#"):
            lines = []
    return [*found, *(["\n".join(lines)] if lines else [])]


def _is_whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    checked = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    return checked.returncode == 0 and not checked.stderr


def faults(page: Page) -> list[str]:
    """What is wrong with a page: links that lead nowhere, names of what does not exist, code of no language."""
    return [
        *(f"link {target}" for target in _LINK.findall(page.prose) if not _leads_somewhere(page, target)),
        *(f"block of {language or 'no language'}" for language in _languages(page)),
        *(f"indented block: {line.strip()}" for line in _indented(page.prose)),
        *(f"{name} is no setting" for block in page.blocks("ini") for name in _unknown_settings(block)),
        *_unknown_names(page),
    ]


def _leads_somewhere(page: Page, target: str) -> bool:
    if re.match(r"[a-z]+:", target):
        return True
    path, _, anchor = target.partition("#")
    file = (page.path.parent / path).resolve() if path else page.path
    if not anchor:
        return file.exists()
    text = page.text if file == page.path else file.read_text() if file.exists() else ""
    return anchor in _anchors(text)


def _anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def _languages(page: Page) -> list[str]:
    return [language for _, language, _ in _FENCE.findall(page.text) if language not in LANGUAGES]


def _indented(prose: str) -> list[str]:
    """Code that hides from the tests by being indented, unless it goes on with an item of a list."""
    is_list = False
    found = []
    for before, line in zip(["", *prose.splitlines()], prose.splitlines(), strict=False):
        is_list = bool(re.match(r" *([-*]|\d+\.) ", line)) or (is_list and (not line or line.startswith(" ")))
        if line.startswith("    ") and not before.strip() and not is_list:
            found.append(line)
    return found


def _unknown_settings(block: str) -> list[str]:
    return [
        name
        for name in re.findall(r"^(\w+)=", block, re.MULTILINE)
        if f"#{name}=" not in _text(".env.example")
    ]


def _unknown_names(page: Page) -> Iterator[str]:
    for code in _INLINE.findall(page.prose):
        if _FILE.fullmatch(code) and not _exists(page, code):
            yield f"file {code}"
        if (setting := _SETTING.fullmatch(code)) and not _is_known(setting[1]):
            yield f"name {setting[1]}"
        if (test := _TEST.fullmatch(code)) and f"def {test[1]}" not in tests():
            yield f"test {code}"
        yield from faults_of_command(code)
    for command in page.commands():
        yield from faults_of_command(command)


def _exists(page: Page, name: str) -> bool:
    """Where the path says, from the page or the root; a name alone, anywhere; or made by a command of the page."""
    made = f">{name}" in page.text or f">>{name}" in page.text
    return made or (page.path.parent / name).exists() or (ROOT / name).exists() or name in _names()


def _is_known(name: str) -> bool:
    return (
        name in OTHER_NAMES
        or f"#{name}=" in _text(".env.example")
        or re.search(rf"\b{name}\b", _code()) is not None
    )


def faults_of_command(command: str) -> Iterator[str]:
    """Targets of make, commands of manage.py and their options that do not exist."""
    for words in re.findall(r"\bmake ((?:[A-Za-z_]+=\S+ +)*[a-z]+(?:-[a-z]+)*\b(?: [A-Z]+=)?)", command):
        for word in words.split():
            variable = word.partition("=")[0]
            if not re.search(rf"^{word}:|\({variable}\)|\b{variable}=", _text("Makefile"), re.MULTILINE):
                yield f"make {word}"
    for name, rest in re.findall(r"\bmanage\.py ([a-z_]+)([^|;&\n]*)", command):
        if name not in get_commands():
            yield f"manage.py {name}"
        else:
            known = _options(name)
            yield from (
                f"manage.py {name} {o}" for o in re.findall(r"(?<!\S)--[a-z-]+", rest) if o not in known
            )


@cache
def _options(name: str) -> set[str]:
    command = load_command_class(get_commands()[name], name)
    parser: argparse.ArgumentParser = command.create_parser("manage.py", name)
    return {option for action in parser._actions for option in action.option_strings}


@cache
def _text(name: str) -> str:
    return (ROOT / name).read_text()


@cache
def _names() -> set[str]:
    folders = ("docs", "shop", "tasks", "tests", "workers")
    return {path.name for folder in folders for path in (ROOT / folder).rglob("*")}


@cache
def tests() -> str:
    """The text of all tests."""
    return "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))


@cache
def _code() -> str:
    folders = ("shop", "tasks", "workers", "tests")
    # What is wrong with a page on purpose is named nowhere but there.
    files = {path for folder in folders for path in (ROOT / folder).rglob("*.py")} - {
        ROOT / "tests" / "test_documentation.py"
    }
    code = [path.read_text() for path in files]
    return "\n".join([*code, _text("Makefile"), _text("compose.yaml")])
