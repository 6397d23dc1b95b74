"""What is seen of the pseudo-labels while a run trains. Hidden labels enter here and nowhere else."""

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from fercore.data.faces import UNKNOWN
from fercore.fusion import fuse
from fercore.methods.api import Step


def share(some: int, of: int) -> float | None:
    """Of faces whose hidden label is known; None where there is none."""
    return round(some / of, 5) if of else None


class Tally:
    """Sums over the steps since the last evaluation, on the device; read once, then emptied."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.broken = torch.tensor(-1)  # first step whose loss was not finite

    def check(self) -> None:
        """Read whether a loss was not finite. Raises ArithmeticError with its step."""
        if (step := int(self.broken)) >= 0:
            raise ArithmeticError(f"loss is not finite at step {step}; a smaller lr or fp32 may help")

    def add(self, number: int, step: Step, truth: Int64[Tensor, " m"] | None) -> None:
        """Count step `number`; `truth` are the hidden labels of its unlabelled batch."""
        values = {f"loss/{name}": value.detach() for name, value in step.losses.items()}
        values |= {"loss/total": step.total.detach(), "steps": torch.ones_like(step.total)}
        finite = torch.isfinite(step.total.detach())
        self.broken = torch.where((self.broken < 0) & ~finite, number, self.broken.to(finite.device))
        if step.target is not None:
            pseudo_label, keep = step.target.argmax(1), step.keep
            known = truth != UNKNOWN
            right = (pseudo_label == truth) & known
            kept = nn.functional.one_hot(pseudo_label, step.target.shape[1]) * keep[:, None]
            values |= {"seen": torch.ones_like(right).sum(), "kept": keep.sum(), "counts": kept.sum(0)}
            values |= {"right": right.sum(), "right_kept": (right & keep).sum()}
            values |= {"known": known.sum(), "known_kept": (known & keep).sum()}
            values |= {f"level/{level}": (p.argmax(1) == truth).sum() for level, p in step.levels.items()}
            if len(step.levels) > 1:
                values["level/fused"] = (fuse(step.levels).argmax(1) == truth).sum()
        for key, value in values.items():
            self.sums[key] = self.sums[key] + value if key in self.sums else value

    def read(self) -> dict:
        """Means since the last call: loss, kept fraction, pseudo-label accuracies, kept per class."""
        sums = {key: value.tolist() for key, value in self.sums.items()}
        self.sums = {}
        steps, seen = sums["steps"], sums.get("seen")
        out: dict = {"loss": {k[5:]: round(v / steps, 5) for k, v in sums.items() if k.startswith("loss/")}}
        if seen:
            levels = {k[6:]: v for k, v in sums.items() if k.startswith("level/")}
            out |= {
                "kept": round(sums["kept"] / seen, 5),
                "pseudo_accuracy": share(sums["right"], sums["known"]),
                "pseudo_accuracy_kept": share(sums["right_kept"], sums["known_kept"]),
                "level_accuracy": {level: share(right, sums["known"]) for level, right in levels.items()},
                "pseudo_counts": sums["counts"],
            }
        return out
