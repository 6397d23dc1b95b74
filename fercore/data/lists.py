"""List files and tables, as programs write them: any encoding that says what it is, any line ends, blank lines."""

import csv
import io
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from fercore.errors import UserError, reason

UTF16 = (b"\xff\xfe", b"\xfe\xff")
MARKS = (",", ";", "\t")  # between cells: the first that the header holds


def decoded(file: io.BufferedIOBase) -> io.TextIOWrapper:
    """The lines of a binary stream in UTF-8 or UTF-16, with or without a byte order mark."""
    file = file if hasattr(file, "peek") else io.BufferedReader(file)
    return io.TextIOWrapper(file, "utf-16" if file.peek(2)[:2] in UTF16 else "utf-8-sig")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of each line that is not blank. Raises UserError where it is missing or in another encoding."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(decoded(file), 1):
                if line.strip():
                    yield number, line.strip()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 or UTF-16 ({reason(error)})") from None


def rows(path: Path, unpacked: Callable[[Path], io.BufferedIOBase] | None = None) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row of a CSV that is not blank, the header among them; all as wide as the first.

    `unpacked` opens an archive. Raises UserError where it cannot be read to its end, and for a row of more cells.
    """
    try:
        with unpacked(path) if unpacked else open(path, "rb") as file:
            text = decoded(file)
            head = next(text, "")
            mark = next((mark for mark in MARKS if mark in head), ",")
            reader = csv.reader(chain([head], text), delimiter=mark, skipinitialspace=True)
            width = 0
            for row in reader:
                if not any(cells := [cell.strip() for cell in row]):
                    continue
                width = width or len(cells)
                if any(cells[width:]):
                    where = f"{path}, line {reader.line_num}"
                    raise UserError(f"{where}: {len(cells)} cells, expected {width}; quote a cell that holds {mark!r}")
                yield reader.line_num, [*cells, *[""] * (width - len(cells))][:width]
    except (OSError, UnicodeError, csv.Error) as error:
        said = f"{path} is damaged or cut short, or no CSV in UTF-8 or UTF-16"
        raise UserError(f"{said} ({reason(error)})") from None


def columns(path: Path, header: list[str], known: dict[str, tuple[str, ...]]) -> dict[str, int | None]:
    """Where each column stands, by its usual names without case and blanks; None where it is not there.

    Raises UserError where two columns could be it.
    """
    names = ["".join(cell.lower().split()) for cell in header]
    at: dict[str, int | None] = {}
    for wanted, usual in known.items():
        places = [i for i, name in enumerate(names) if name in usual]
        if len(places) > 1:
            raise UserError(f"{path}: columns {', '.join(header[i] for i in places)}: which is the {wanted}?")
        at[wanted] = places[0] if places else None
    return at
