"""What a start is worth before any fine-tuning: a linear probe and a nearest-neighbour score.

Both read the features of the frozen encoder with all training labels. They measure; nothing that
they learn enters a run.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from fercore.augment import centre
from fercore.encoders import ImageEncoder
from fercore.training.devices import take


@torch.no_grad()
def features(
    model: ImageEncoder, images: UInt8[Tensor, "n c h w"], rows: Int64[Tensor, " r"], size: int, batch: int = 256
) -> Float[Tensor, "r d"]:
    """Features of the given images, in evaluation mode, on the model's device."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    out = [model(centre(take(images, part, device), size)).feature for part in rows.split(batch)]
    model.train(was_training)
    return torch.cat(out)


def nearest_neighbours(
    train: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    test: Float[Tensor, "t d"],
    truth: Int64[Tensor, " t"],
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy of the weighted vote of the k nearest cosine neighbours (Wu et al. 2018, weights exp(s / T))."""
    bank, classes = F.normalize(train, dim=1), int(labels.max()) + 1
    right = 0
    for part, true in zip(F.normalize(test, dim=1).split(512), truth.split(512)):
        similarity, nearest = (part @ bank.T).topk(min(k, len(bank)))
        votes = torch.zeros(len(part), classes, device=part.device)
        votes.scatter_add_(1, labels[nearest], (similarity / temperature).exp())
        right += int((votes.argmax(1) == true).sum())
    return right / len(truth)


def linear_probe(
    train: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    test: Float[Tensor, "t d"],
    truth: Int64[Tensor, " t"],
    penalty: float = 1e-3,
) -> float:
    """Accuracy of multinomial logistic regression on standardised features (L-BFGS, L2 penalty)."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    x, x_test = (train - mean) / deviation, (test - mean) / deviation
    layer = torch.nn.Linear(x.shape[1], int(labels.max()) + 1, device=x.device)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(layer(x), labels) + penalty * layer.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return float((layer(x_test).argmax(1) == truth).float().mean())
