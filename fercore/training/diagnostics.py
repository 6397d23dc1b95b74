"""What is seen of the pseudo-labels while a run trains. Hidden labels enter here and nowhere else."""

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from fercore.fusion import fuse
from fercore.methods.api import Step


class Tally:
    """Sums over the steps since the last evaluation, on the device; read once, then emptied."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}

    def add(self, step: Step, truth: Int64[Tensor, " m"] | None) -> None:
        """Count one step; `truth` are the hidden labels of its unlabelled batch."""
        values = {f"loss/{name}": value.detach() for name, value in step.losses.items()}
        values |= {"loss/total": step.total.detach(), "steps": torch.ones_like(step.total)}
        if step.target is not None:
            pseudo_label, keep = step.target.argmax(1), step.keep
            right = pseudo_label == truth
            kept = nn.functional.one_hot(pseudo_label, step.target.shape[1]) * keep[:, None]
            values |= {"seen": torch.ones_like(right).sum(), "kept": keep.sum(), "counts": kept.sum(0)}
            values |= {"right": right.sum(), "right_kept": (right & keep).sum()}
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
            kept = sums["kept"]
            out |= {
                "kept": round(kept / seen, 5),
                "pseudo_accuracy": round(sums["right"] / seen, 5),
                "pseudo_accuracy_kept": round(sums["right_kept"] / kept, 5) if kept else None,
                "level_accuracy": {k[6:]: round(v / seen, 5) for k, v in sums.items() if k.startswith("level/")},
                "pseudo_counts": sums["counts"],
            }
        return out
