"""Shapes and types of every signature in fercore are checked while the tests run, and at no other time."""

import os
import re
import sys

from jaxtyping import install_import_hook

# Before torch is imported anywhere. One thread: sums in one order, so that equal runs are equal to the last bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# It stays installed: modules that are imported later, by name, are checked as well.
install_import_hook("fercore", "beartype.beartype")

import pytest  # noqa: E402
import toy  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """No test reads or fills the user's cache."""
    os.environ["FERCORE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    """The made-up data set, written once; tests only read it."""
    return toy.write_faces(tmp_path_factory.mktemp("toy") / "faces")


@pytest.fixture
def call(monkeypatch, capsys):
    """Type `python -m fercore ...`: (exit code, lines of stdout, lines of stderr)."""
    from fercore import cli

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["fercore", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code, out.splitlines(), err.splitlines()

    return typed


@pytest.fixture
def refused(call):
    """The same, for input that must be refused: returns the one line on stderr."""

    def typed(*arguments):
        code, out, err = call(*arguments)
        assert code == 2 and out == []
        bars = [line for line in err if re.search(r"\d+/\d+ \[|img/s", line)]
        lines = [line for line in err if line.strip() and line not in bars]
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        return lines[0]

    return typed
