"""YAML as people mean it: every key once, numbers as they look, no aliases. Raises one line where it is otherwise."""

import re
from pathlib import Path

import yaml

from fercore.errors import UserError, reason

LARGEST = 500_000  # bytes
INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9]*)$")
FLOAT = re.compile(r"^[-+]?((0|[1-9][0-9]*)(\.[0-9]*|(?=[eE]))|\.[0-9]+)([eE][-+]?[0-9]+)?$")
BOOLEAN = re.compile(r"^(true|false|True|False)$")
OWN = ("int", "float", "bool", "timestamp", "merge", "value")  # of YAML 1.1, read otherwise here


class Loader(yaml.SafeLoader):
    """YAML 1.2's plain numbers: 010 and 1:30 are texts, 3e-4 is a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (as yaml has it)
        first: [(tag, pattern) for tag, pattern in rules if tag.rsplit(":", 1)[1] not in OWN]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        """No alias: a few lines of them unfold to gigabytes."""
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError(f"{self.peek_event().start_mark}: aliases (*name) are not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        """Every key once."""
        seen: set = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str | int):
                raise yaml.YAMLError(f"{key.start_mark}: {name!r} is no key")
            if name in seen:
                raise yaml.YAMLError(f"{key.start_mark}: the key {name} stands twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


RULES = (("int", INTEGER, "-+0123456789"), ("float", FLOAT, "-+0123456789."), ("bool", BOOLEAN, "tfTF"))
for kind, pattern, first in RULES:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", pattern, list(first))


def load(path: Path) -> object:
    """What the file says. Raises UserError where it cannot be read, or is no such YAML."""
    return parse(path, read(path))


def read(path: Path) -> str:
    """Its text. Raises UserError."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: larger than {LARGEST:,} bytes; expected a YAML written by hand")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None


def parse(path: Path, text: str) -> object:
    """What this text of the file says. Raises UserError."""
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())[:300]})") from None
