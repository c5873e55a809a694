"""A guard and what is put in its place: a small replacement of text that a named test must notice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


class NoLongerApplies(Exception):
    """The text of a mutant does not stand in its file once, so that it takes no guard out any more."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One replacement.

    `name`: what holds because of the text that is replaced. `promise`: the beginning of the promise in ARCHITECTURE's table
    that this guards; '' where it guards a line that the table does not name. `file`: from the project's root. `text`: what
    stands there once. `instead`: what is put in its place. `tests`: as pytest names them; of each, one case must fail.
    `is_slow`: they need more than a few seconds, so the sample of `make test` leaves this one out. `by_fixture`: what they
    look at happens in a fixture, which may notice first.
    """

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]
    promise: str = ""
    is_slow: bool = False
    by_fixture: bool = False

    def mutated(self, root: Path = ROOT) -> str:
        """The file's text with the guard out. Raises `NoLongerApplies`."""
        path = root / self.file
        whole = path.read_text() if path.is_file() else ""
        if (times := whole.count(self.text)) != 1:
            raise NoLongerApplies(f"{self.file} has its text {times} times: {self.text!r}")
        mutated = whole.replace(self.text, self.instead)
        if path.suffix == ".py":
            compile(mutated, self.file, "exec")
        return mutated
