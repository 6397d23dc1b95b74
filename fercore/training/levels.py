"""What each level says of some unlabelled faces, at evaluations spread over a run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor

from fercore.errors import UserError
from fercore.training.rng import generator

LOOKS = 5  # evaluations, at most


@dataclass
class LevelLog:
    """Half-precision probabilities of these faces; it goes into the run's checkpoint."""

    rows: Int64[Tensor, " n"]  # positions in the data set
    steps: set[int]  # at which to look
    seen: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # step -> level -> float16 [n, k]

    @property
    def whole(self) -> bool:
        """Whether all looks are there. Where a checkpoint was made without a log, the first ones are not."""
        return set(self.seen) == self.steps

    def add(self, step: int, levels: Mapping[str, Tensor]) -> None:
        """What the levels [n, k] say at this step."""
        self.seen[step] = {level: p.to("cpu", torch.float16) for level, p in levels.items()}

    def state_dict(self) -> dict:
        """Tensors and plain values."""
        return {"rows": self.rows, "seen": self.seen}

    def load_state_dict(self, saved: Mapping) -> None:
        """The inverse of `state_dict`; what was logged of other faces is left out."""
        if torch.equal(self.rows, saved["rows"].cpu()):
            self.seen = {}
            for step in sorted(self.steps & set(saved["seen"])):
                self.add(step, saved["seen"][step])


def begin(rows: Int64[Tensor, " u"], size: int, split_seed: int, evaluated: Iterable[int]) -> LevelLog | None:
    """An empty log of `size` of these unlabelled faces; None where there is none or none is asked for.

    Which faces is a function of the split's seed alone, when to look one of the evaluations' steps: equal for all
    methods and seeds of a split. Raises UserError for a negative size.
    """
    if size < 0:
        raise UserError(f"dump: {size}; expected a number of faces, or 0 for none")
    chosen = rows[torch.randperm(len(rows), generator=generator(split_seed, "dump"))[:size]].sort().values
    steps = sorted(evaluated)
    looks = min(LOOKS, len(steps))
    at = {steps[round(len(steps) * (i + 1) / looks) - 1] for i in range(looks)}
    return LevelLog(chosen, at) if len(chosen) else None
