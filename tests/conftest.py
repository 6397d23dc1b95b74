"""Shapes and types of every signature in fercore are checked while the tests run, and at no other time."""

import os

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
