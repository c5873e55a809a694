"""CSV files with a header, plain or gzipped: their rows, and what is wrong with them by line number."""

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, Final, TextIO, cast

#: Faults told of one file; after these, one more line says how many there are.
FAULTS_TOLD: Final = 20
#: The first two bytes of a gzip file (RFC 1952, 2.3.1).
_GZIP: Final = b"\x1f\x8b"


class BadFile(Exception):
    """The file can't be used; the message names each fault, with its line number."""


class Faults:
    """What was found wrong with a file so far."""

    def __init__(self, path: str) -> None:
        self._name = _name(path)
        self._told: list[str] = []
        self._count = 0

    def add(self, line: int, fault: str) -> None:
        """Note one fault. `line` counts from 1, the header's."""
        self._count += 1
        if self._count <= FAULTS_TOLD:
            self._told.append(f"line {line}: {fault}")

    def raise_if_any(self) -> None:
        """Raise `BadFile` that tells them."""
        if self._count:
            more = [f"and {self._count - FAULTS_TOLD} more"] if self._count > FAULTS_TOLD else []
            raise BadFile("\n".join([f"{self._name}: {self._count} bad row(s)", *self._told, *more]))


def _name(path: str) -> str:
    return "standard input" if path == "-" else path


def read(path: str, columns: Sequence[str], faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """The rows of the file at `path` ("-": standard input): each one's line number and cells of `columns`.

    Other columns are passed over, empty lines too. Rows that are no rows of this table become `faults`.
    Raises `BadFile` where there is no such table at all.
    """
    try:
        with _opened(path) as text:
            yield from _rows(text, path, columns, faults)
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"{_name(path)}: {error}") from error


@contextmanager
def _opened(path: str) -> Iterator[TextIO]:
    """The text of the file. Bytes that are no UTF-8 become lone surrogates, so their row can be named."""
    with ExitStack() as stack:
        raw = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
        peeked = cast(io.BufferedReader, raw).peek(2)
        source = cast(BinaryIO, stack.enter_context(gzip.open(raw)) if peeked.startswith(_GZIP) else raw)
        text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="")
        stack.callback(text.detach)
        yield text


def _rows(text: TextIO, path: str, columns: Sequence[str], faults: Faults) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text, strict=True)
    line, width, wanted = 1, 0, list[int]()
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            # After broken quotes nobody can say where the next row begins.
            faults.add(line, str(error))
            return
        if not width:
            width, wanted = len(row), _places(row, path, columns)
        elif row and (fault := _fault(row, width)):
            faults.add(line, fault)
        elif row:
            yield line, [row[at] for at in wanted]
        line = reader.line_num + 1
    if not width:
        raise BadFile(f"{_name(path)}: is empty; the first line must be {','.join(columns)}")


def _places(header: list[str], path: str, columns: Sequence[str]) -> list[int]:
    names = [name.strip() for name in header]
    odd = [name for name in columns if names.count(name) != 1]
    if odd:
        raise BadFile(
            f"{_name(path)}: line 1: must be a header with the columns {','.join(columns)}, each once; "
            f"not so: {', '.join(odd)}"
        )
    return [names.index(name) for name in columns]


def _fault(row: list[str], width: int) -> str | None:
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return None if len(row) == width else f"has {len(row)} cells, and the header {width}"
