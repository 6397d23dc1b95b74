"""Shapes and types of every signature in fercore are checked while the tests run, and at no other time."""

import os

from jaxtyping import install_import_hook

# Before torch is imported anywhere: two cores, and no thread pool that outgrows them.
os.environ.setdefault("OMP_NUM_THREADS", "2")

with install_import_hook("fercore", "beartype.beartype"):
    import fercore  # noqa: F401
    import fercore.cli  # noqa: F401
