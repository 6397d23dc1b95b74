"""Where things are, anchored on the repository and never on the working directory."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params"
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "results"


def results(profile: str) -> Path:
    """Folder of a profile's records, tables and figures."""
    return RESULTS / profile


def cache() -> Path:
    """Folder for what can be rebuilt: decoded faces, prompt tables. `FERCORE_CACHE` moves it."""
    home = os.environ.get("FERCORE_CACHE")
    return Path(home) if home else Path.home() / ".cache" / "fercore"
