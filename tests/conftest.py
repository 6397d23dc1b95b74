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

# Whatever needs torch is imported late, by who asks for it: the process that only hands out tests starts without it.


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """No test reads or fills the user's cache; the toy encoder is known by its name."""
    import toy  # noqa: F401

    os.environ["FERCORE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    """The made-up data set, written once; tests only read it."""
    import toy

    return toy.write_faces(tmp_path_factory.mktemp("toy") / "faces")


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """An empty cache for one test."""
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """An empty folder for a data set."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A function that writes toy.PROFILE with these changes (None: without the key) as toy.yaml; returns its path."""
    import toy
    import yaml

    monkeypatch.delenv("FERCORE_DATA", raising=False)

    def write(**changes):
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in (toy.PROFILE | changes).items() if v is not None}))
        return path

    return write


@pytest.fixture
def asked(monkeypatch):
    """What is asked of runs.make, which has a record at once. Its `hook` is called with each configuration before."""
    import synthetic

    from fercore.study import identity, records, runs

    class Asked(list):
        hook = staticmethod(lambda config: None)

    def make(config, *, results, patience=-1.0, **place):
        with records.claim(results, config.key, patience):
            asked.append(config)
            asked.hook(config)
            record = synthetic.here(config, identity.Place(place["data_root"], results, "cpu"))
            records.append(results / "records.jsonl", record)
            return record

    asked = Asked()
    monkeypatch.setattr(runs, "make", make)
    return asked


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
        bars = [line for line in err if re.search(r"\d+/\d+ \[|img/s|\d%\|", line)]
        lines = [line for line in err if line.strip() and line not in bars]
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        return lines[0]

    return typed


@pytest.fixture
def fork(monkeypatch):
    """Start a function of child.py in a process of its own: fork(function, *arguments) -> the process."""
    from child import FORKED

    from fercore import paths

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), str(paths.ROOT)]))

    def start(function, *arguments):
        process = FORKED.Process(target=function, args=arguments)
        process.start()
        return process

    return start
