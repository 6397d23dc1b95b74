"""The values that the papers do not give, collected from the comments beside them: `# chosen: why`, `# released`.

A comment is where a value's origin is written, once. Here it is read with ast and tokenize from the Python files, and
line by line from the profiles, so that params/CHOICES.md repeats no value by hand.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fercore import paths
from fercore.study import profiles

SHARED = ("config", "augment", "data/splits", "data/ferplus", "dlib_resnet", "training/pretrained")
ORIGIN = re.compile(r"\b(chosen|released)\b")
BARE = re.compile(r"^(chosen|released)( code)?[:;,]? ?")  # what the column before it says already
YAML = re.compile(r"^(?P<name>\w+): (?P<value>.+?)\s+# (?P<comment>.*)$")


@dataclass(frozen=True)
class Choice:
    """A named value, where it stands, and what its comment says."""

    file: Path
    name: str
    value: str  # as written
    origin: str  # chosen (by us) or released (in the authors' code)
    comment: str


def everywhere() -> list[Choice]:
    """Of SIT-FER, of what all runs share, of the other methods, and of the profiles, in this order."""
    methods = sorted((paths.ROOT / "fercore/methods").glob("*.py"), key=lambda file: (file.stem != "sitfer", file.stem))
    code = [methods[0], *(paths.ROOT / f"fercore/{name}.py" for name in SHARED), *methods[1:]]
    return [choice for file in (*code, *profiles.committed()) for choice in of_file(file)]


def of_file(file: Path) -> list[Choice]:
    """In the order of the file: its values whose comment, on the value's last line, says chosen or released."""
    read = python if file.suffix == ".py" else profile
    found = ((name, value, comment, ORIGIN.search(comment)) for name, value, comment in read(file.read_text("utf-8")))
    return [Choice(file, name, value, origin[1], comment) for name, value, comment, origin in found if origin]


def python(source: str) -> Iterator[tuple[str, str, str]]:
    """(name, value, comment) of the module's constants and of its classes' fields that have a comment beside them."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    for node in _assigned(ast.parse(source).body):
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if node.value is not None and isinstance(target, ast.Name) and node.end_lineno in comments:
            yield target.id, ast.get_source_segment(source, node.value), comments[node.end_lineno]


def _assigned(body: Iterable[ast.stmt]) -> Iterator[ast.AnnAssign | ast.Assign]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _assigned(node.body)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            yield node


def profile(source: str) -> Iterator[tuple[str, str, str]]:
    """(key, value, comment) of the top lines of a YAML that have a comment beside them."""
    for line in source.splitlines():
        if found := YAML.match(line):
            yield found["name"], found["value"], found["comment"]


def table(choices: Iterable[Choice]) -> str:
    """A Markdown table; files linked from the folder params."""
    lines = ["| where | value | ours | origin | in the code's words |", "|---|---|---|---|---|"]
    for choice in choices:
        place = choice.file.relative_to(paths.ROOT).as_posix()
        link = choice.file.name if place.startswith("params/") else f"../{place}"
        value, words = f"`{' '.join(choice.value.split())}`", BARE.sub("", choice.comment)
        cells = [f"[{choice.file.name}]({link})", f"`{choice.name}`", value, choice.origin, words]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
