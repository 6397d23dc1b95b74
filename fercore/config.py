"""The configuration of one run: all that its record depends on, and nothing of where it ran."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

from fercore import files
from fercore.errors import UserError

WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
WORDS |= {dict: "keys and values as in JSON", tuple: "a list of texts", Sequence: "a list of texts"}


@dataclass(frozen=True)
class Limits:
    """What a field may be, beside its type: `tau: Annotated[float, Limits(least=0, most=1)]`."""

    least: int | float | None = None
    above: int | float | None = None
    most: int | float | None = None
    below: int | float | None = None
    words: tuple[str, ...] = ()  # one of these
    why: str = ""

    def holds(self, value: object) -> bool:
        """Whether the value, of the right type, lies within."""
        if self.words:
            return value in self.words
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        return low and (self.most is None or value <= self.most) and (self.below is None or value < self.below)

    def __str__(self):
        ends = {"at least": self.least, "more than": self.above, "at most": self.most, "less than": self.below}
        said = " and ".join(f"{word} {end:,}" for word, end in ends.items() if end is not None)
        return (f"one of {', '.join(self.words)}" if self.words else said) + self.why


# Kinds of values that configurations share.
Share = Annotated[float, Limits(least=0, most=1)]
Weight = Annotated[float, Limits(least=0)]
Positive = Annotated[float, Limits(above=0)]
Decay = Annotated[float, Limits(least=0, below=1)]
Count = Annotated[int, Limits(least=1, most=65_536)]
Width = Annotated[int, Limits(least=0, most=65_536)]
Steps = Annotated[int, Limits(least=1, most=100_000_000)]
Batch = Annotated[int, Limits(least=2, most=65_536, why=": batch normalisation needs more than one face")]
Pixels = Annotated[int, Limits(least=8, most=2_048, why=" pixels")]
Seed = Annotated[int, Limits(least=0, most=2**32 - 1)]
Precision = Annotated[str, Limits(words=("auto", "fp32", "bf16"))]


def typed(config: Callable, values: dict) -> dict:
    """`values` for a dataclass or a function, whole numbers as floats where it wants them: 0 and 0.0 make one key.

    A type that is not in WORDS is not looked at. Raises UserError for a value of another type, or beyond its `Limits`.
    """
    out = {}
    for name, kind in get_type_hints(config, include_extras=True).items():
        if name not in values:
            continue
        value, limits = values[name], []
        if get_origin(kind) is Annotated:
            kind, *limits = get_args(kind)
        inner, kind = get_args(kind), get_origin(kind) or kind
        if kind in (Union, UnionType):
            if value is None and NoneType in inner:
                continue
            # X | None is X, int | float is float
            kind = next((each for each in (float, *inner) if each in inner and each is not NoneType), None)
            inner, kind = get_args(kind), get_origin(kind) or kind
        if kind is float and type(value) is int and abs(value) < 1e300:
            value = float(value)
        right = kind not in WORDS or (type(value) is kind and (kind is not float or math.isfinite(value)))
        if kind is Sequence:
            right = isinstance(value, list | tuple)
        if right and inner and kind in (dict, tuple, Sequence):
            flat = [*value.items()] if kind is dict else [(item,) for item in value]
            right = all(type(item) is a for items in flat for item, a in zip(items, inner))
        if not right or (kind is dict and not _json(value)):
            raise UserError(f"{name}: expected {WORDS[kind]}, got {short(value)}")
        for limit in limits:
            if isinstance(limit, Limits) and not limit.holds(value):
                raise UserError(f"{name}: {short(value)}; expected {limit}")
        out[name] = value
    return out


def _json(value: dict) -> bool:
    """Whether a key can be made of it: no NaN, no bytes, no dates."""
    try:
        return bool(files.canonical(value))
    except (TypeError, ValueError):
        return False


def one_gap(prompt: str) -> str:
    """The prompt. Raises UserError where it has no place for the expression, or several."""
    if prompt.count("{}") != 1:
        raise UserError(f"prompt: {prompt!r} needs exactly one {{}} for the expression")
    return prompt


LATER = ("few_labels", "source")  # fields that a key has only where they say something


@dataclass(frozen=True)
class Run:
    """One training of one method on one data set, budget and seed.

    Stated: in the SIT-FER paper, IV-B. Released: in its code. Chosen: by us, the paper being silent.
    `seed` rules initialisation, order and views; `split_seed` alone rules which faces are labelled.
    """

    dataset: str
    method: str  # "fixmatch", or with a variant "sitfer/semantic"
    labels: Annotated[int, Limits(least=0, why=": a total, 0 for every label")]  # budget, in total; 0 for every label
    steps: Steps = 48_000  # 60 epochs (stated) of 800 (released)
    seed: Seed = 0
    split_seed: Seed = 0
    dataset_options: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)  # of the method
    evaluations: int = 20  # evenly spaced, the last one at the end
    batch: Batch = 16  # stated
    unlabelled_batch: Batch = 16  # released
    image_size: Pixels = 224  # released
    encoder: str = "resnet18"  # stated
    start: str = "none"  # none | imagenet | file:PATH | pretrain:KEY; the paper: MS-Celeb-1M, from a file
    start_keys: dict[str, str] = field(default_factory=dict)  # prefixes in the file -> prefixes in the backbone
    text: str = "clip:ViT-B-32/openai"  # stated: CLIP ViT-B/32
    prompt: str = "a face image of {}"  # stated
    lr: Positive = 1e-4  # released
    schedule: Annotated[str, Limits(words=("constant", "cosine"))] = "constant"  # released
    ema: Decay = 0.999  # chosen; 0 switches it off, as released
    validation: Decay = 0.0  # share of the labelled faces held out
    include_labelled: bool = False  # labelled faces among the unlabelled ones
    drop_duplicates: bool = True  # chosen: no training face is byte-identical to a test face
    precision: Precision = "auto"
    compile: bool = False
    few_labels: bool = False  # a budget smaller than the number of classes is meant
    source: str = ""  # digest of a method that is no file of the package: edited code is another run

    def __post_init__(self):
        vars(self).update(typed(Run, vars(self)))
        if not 1 <= self.evaluations <= self.steps:
            raise UserError(f"evaluations: {self.evaluations} does not lie between 1 and steps ({self.steps})")
        if not re.fullmatch(r"none|imagenet|file:.+|pretrain:\w+", self.start):
            raise UserError(f"start: {self.start!r} is unknown; use none, imagenet, file:PATH or pretrain:KEY")
        one_gap(self.prompt)

    @cached_property
    def key(self) -> str:
        """Digest of the configuration; equal runs have equal keys on every machine."""
        return files.key_of(self.to_dict())

    def __hash__(self) -> int:
        return hash(self.key)

    def to_dict(self) -> dict:
        """Plain values, as the record carries them."""
        return {name: value for name, value in asdict(self).items() if value or name not in LATER}

    @classmethod
    def from_dict(cls, values: dict) -> "Run":
        """The inverse of `to_dict`. Raises UserError for unknown keys."""
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise UserError(f"configuration: unknown key {', '.join(unknown)}")
        return cls(**typed(cls, values))
