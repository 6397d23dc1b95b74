"""The configuration of one run: all that its record depends on, and nothing of where it ran."""

import math
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import get_origin

from fercore import files
from fercore.errors import UserError

SCHEDULES = ("constant", "cosine")
ADDED = ("source", "frozen")  # fields that a configuration names only where they say something
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
# Least and most of a value, and why.
LIMITS = {
    "steps": (1, 100_000_000, ""),
    "batch": (2, 65_536, ": batch normalisation needs more than one face"),
    "unlabelled_batch": (2, 65_536, ": batch normalisation needs more than one face"),
    "frozen": (0, 64, " views"),
    "image_size": (8, 2_048, " pixels"),
}
WORDS |= {dict: "keys and values", tuple: "a list"}


def typed(config: type, values: dict) -> dict:
    """`values` for the dataclass `config`, whole numbers as floats where it wants them: 0 and 0.0 make one key.

    Raises UserError for a value of another type than the field's.
    """
    out = {}
    for f in fields(config):
        if f.name not in values:
            continue
        value, kind = values[f.name], get_origin(f.type) or f.type
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            hint = "; YAML reads a number with an exponent only with a point: 3.0e-4" if kind is float else ""
            raise UserError(f"{f.name}: expected {WORDS[kind]}, got {value!r}{hint}")
        out[f.name] = value
    return out


@dataclass(frozen=True)
class Run:
    """One training of one method on one data set, budget and seed.

    Stated: in the SIT-FER paper, IV-B. Released: in its code. Chosen: by us, the paper being silent.
    `seed` rules initialisation, order and views; `split_seed` alone rules which faces are labelled.
    """

    dataset: str
    method: str  # "fixmatch", or with a variant "sitfer/semantic"
    labels: int  # budget, in total; 0 for every label
    steps: int = 48_000  # 60 epochs (stated) of 800 (released)
    seed: int = 0
    split_seed: int = 0
    dataset_options: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)  # of the method
    evaluations: int = 20  # evenly spaced, the last one at the end
    batch: int = 16  # stated
    unlabelled_batch: int = 16  # released
    image_size: int = 224  # released
    encoder: str = "resnet18"  # stated
    start: str = "none"  # none | imagenet | dlib | file:PATH | pretrain:KEY; the paper: MS-Celeb-1M, from a file
    start_keys: dict = field(default_factory=dict)  # prefixes in the file -> prefixes in the backbone
    text: str = "clip:ViT-B-32/openai"  # stated: CLIP ViT-B/32
    prompt: str = "a face image of {}"  # stated
    lr: float = 1e-4  # released
    schedule: str = "constant"  # released
    ema: float = 0.999  # chosen; 0 switches it off, as released
    validation: float = 0.0  # share of the labelled faces held out
    include_labelled: bool = False  # labelled faces among the unlabelled ones
    drop_duplicates: bool = True  # chosen: no training face is byte-identical to a test face
    precision: str = "auto"
    compile: bool = False
    frozen: int = 0  # views of each face that a frozen encoder sees once, for a head on its features; 0: all is trained
    source: str = ""  # digest of a method that is no file of the package: edited code is another run

    def __post_init__(self):
        vars(self).update(typed(Run, vars(self)))
        if self.labels < 0:
            raise UserError(f"labels: {self.labels}; expected a budget in total, or 0 for every label")
        for name, (least, most, why) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name}: {getattr(self, name)}; expected {least:,} to {most:,}{why}")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr: {self.lr}; expected a number above 0")
        if not 1 <= self.evaluations <= self.steps:
            raise UserError(f"evaluations: {self.evaluations} does not lie between 1 and steps ({self.steps})")
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule: {self.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
        if not 0 <= self.ema < 1 or not 0 <= self.validation < 1:
            raise UserError("ema and validation are shares: at least 0 and less than 1")

    @cached_property
    def key(self) -> str:
        """Digest of the configuration; equal runs have equal keys on every machine."""
        return files.key_of(self.to_dict())

    def __hash__(self) -> int:
        return hash(self.key)

    def to_dict(self) -> dict:
        """Plain values, as the record carries them."""
        return {name: value for name, value in asdict(self).items() if value or name not in ADDED}

    @classmethod
    def from_dict(cls, values: dict) -> "Run":
        """The inverse of `to_dict`. Raises UserError for unknown keys."""
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise UserError(f"configuration: unknown key {', '.join(unknown)}")
        return cls(**typed(cls, values))
