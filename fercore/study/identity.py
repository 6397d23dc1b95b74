"""What makes two runs the same: everything that their result depends on.

Configuration with the method's constants, the precision that "auto" came to, the faces, which of them are labelled, and
the initial weights. The code that computes stands beside it (`records.source_hash`): a run of other code is the same
run, made by another source, and is called so.
"""

from collections.abc import Mapping

from fercore import files
from fercore.config import Run
from fercore.data import splits
from fercore.data.prepare import Data
from fercore.methods.api import constants
from fercore.training.pretrained import Start

PARTS = {  # of an identity, as a sentence calls them
    "config": "configuration",
    "constants": "constants of the method",
    "precision": "precision",
    "data": "faces",
    "split": "labelled faces",
    "start": "initial weights",
}


def of(config: Run, data: Data, start: Start, precision: str) -> dict:
    """The identity of a run that these would make. Raises UserError for a split that cannot be drawn."""
    split = splits.of(config, data)
    return {
        "config": config.to_dict() | {"precision": precision},
        "constants": constants(config.method, config.options),
        "precision": precision,
        "data": data.faces.fingerprint,
        "split": split.hash,
        "start": start.sha256,
    }


def of_record(record: Mapping) -> dict:
    """The identity of a run that was made."""
    precision = record["provenance"]["precision"]
    return {
        "config": Run.from_dict(record["config"]).to_dict() | {"precision": precision},
        "constants": record["constants"],
        "precision": precision,
        "data": record["data"]["fingerprint"],
        "split": record["split"]["hash"],
        "start": record["start"]["sha256"],
    }


def key(identity: Mapping) -> str:
    """Its digest, which names checkpoints."""
    return files.key_of(identity)


def apart(one: Mapping, other: Mapping) -> list[str]:
    """In what two identities differ, in words."""
    return [words for part, words in PARTS.items() if one[part] != other[part]]
