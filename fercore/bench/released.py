"""A SIT-FER step the released way, for comparison of speed alone.

Written from its description (paper-versus-code audit, points 1, 4, 6-8, 11, 14, 15 and 18), not from
its source: three fp32 NCHW passes, prompts encoded in every step, a Python loop over batch and
memory. What the description leaves open is chosen in its favour: one matrix product gives the loop
its cosines, the weak pass keeps no gradient, there is no EMA and no tally.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fercore.encoders import resnet
from fercore.methods.api import Batch

CONTEXT = 77  # tokens per prompt (point 4)


def vote(
    embedding: Float[Tensor, "m e"], memory: Float[Tensor, "n e"], labels: list[int], classes: int
) -> Float[Tensor, "m k"]:
    """Point 7: per class the largest cosine to its slots, floored at 0, by a loop over batch and memory."""
    cosine = embedding @ memory.T
    best = cosine.new_zeros(len(embedding), classes)
    for i in range(len(embedding)):
        for j, label in enumerate(labels):
            if cosine[i, j] > best[i, label]:
                best[i, label] = cosine[i, j]
    return best


class Released:
    """Network, text encoder (random, and frozen: points 1 and 2), Adam, and a memory with these labels."""

    def __init__(self, labels: list[int], classes: int, lr: float, device: torch.device):
        self.labels, self.classes = labels, classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone, self.classifier = resnet("resnet18")().to(device), nn.Linear(512, classes).to(device)
            layer = nn.TransformerEncoderLayer(512, 8, batch_first=True)
            words = nn.Sequential(nn.Embedding(classes, 512), nn.TransformerEncoder(layer, 3))
            self.memory = F.normalize(torch.randn(len(labels), 512), dim=1).to(device)
        self.text = words.to(device).eval()
        tokens = torch.zeros(classes, CONTEXT, dtype=torch.int64)  # padded with token 0, which is a word
        tokens[:, 0] = torch.arange(classes)
        self.tokens = tokens.to(device)
        self.optimiser = torch.optim.Adam([*self.backbone.parameters(), *self.classifier.parameters()], lr=lr)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 512"]:
        """The unit feature (point 6), from an NCHW pass."""
        return F.normalize(self.backbone(images.contiguous()), dim=1)

    def step(self, batch: Batch) -> None:
        """One optimiser step, after epoch 15 (point 8)."""
        labelled, strong = self.encode(batch.labelled), self.encode(batch.strong[0])
        with torch.no_grad():
            prompts = F.normalize(self.text(self.tokens)[:, 0], dim=1)
            weak = self.encode(batch.weak[0])
            instance = vote(weak, self.memory, self.labels, self.classes)
            p = (0.3 * self.classifier(weak) + 0.2 * weak @ prompts.T + 0.5 * instance).softmax(1)
            confidence, pseudo_label = p.max(1)
        unlabelled = F.cross_entropy(self.classifier(strong), pseudo_label, reduction="none") * (confidence > 0.75)
        total = 0.4 * F.cross_entropy(self.classifier(labelled), batch.labels) + 0.2 * unlabelled.mean()
        total = total + 0.4 * F.cross_entropy(labelled @ prompts.T, batch.labels)
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()
        self.memory[batch.labelled_slots] = labelled.detach()
