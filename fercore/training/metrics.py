"""What is measured on a set of predictions."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def confusion(predicted: Int64[Tensor, " n"], truth: Int64[Tensor, " n"], classes: int) -> Int64[Tensor, "k k"]:
    """Counts [k, k]: rows are the true classes, columns the predicted ones."""
    return torch.bincount(truth * classes + predicted, minlength=classes**2).view(classes, classes)


def recall(counts: Int64[Tensor, "k k"]) -> Float[Tensor, " k"]:
    """Per-class recall; 0 for a class that does not occur."""
    return counts.diagonal() / counts.sum(1).clamp_min(1)


def macro_f1(counts: Int64[Tensor, "k k"]) -> float:
    """Unweighted mean of the per-class F1; a class absent from truth and prediction counts 0."""
    hit, wrong = counts.diagonal(), counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    return float((2 * hit / (2 * hit + wrong).clamp_min(1)).mean())


def calibration_error(p: Float[Tensor, "n k"], truth: Int64[Tensor, " n"], bins: int = 15) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| over equal-width bins, weighted by their size."""
    confidence, predicted = p.max(1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, device=p.device).index_add_(0, which, (predicted == truth).float() - confidence)
    return float(gap.abs().sum() / len(p))


def evaluation(p: Float[Tensor, "n k"], truth: Int64[Tensor, " n"], step: int) -> dict:
    """Everything the record says of one evaluation; accuracies are fractions."""
    counts = confusion(p.argmax(1), truth, p.shape[1])
    return {
        "step": step,
        "accuracy": round(float(counts.diagonal().sum()) / len(truth), 5),
        "macro_f1": round(macro_f1(counts), 5),
        "ece": round(calibration_error(p, truth), 5),
        "recall": [round(r, 5) for r in recall(counts).tolist()],
        "confusion": counts.tolist(),
    }
