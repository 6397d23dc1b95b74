"""One step of a method on made-up faces, and what else the tests of methods share."""

import torch
import toy

from fercore.encoders import ImageEncoder
from fercore.methods import resolve, views
from fercore.methods.api import Batch, Context, Step
from fercore.training.optimisers import Adam

K, SLOTS = len(toy.CLASSES), 30


class Unordered(torch.Tensor):
    """A buffer that is written as a GPU writes: of several values for one place, any may stay."""

    def __setitem__(self, index, value):
        value = torch.as_tensor(value).expand(len(index), *self.shape[1:])
        for slot in index.unique():
            rows = value[index == slot]
            assert (rows == rows[0]).all(), f"slot {slot} is given different values at once"
        super().__setitem__(index, value)


def faces(n, seed):
    """Faces whose mean colour tells the class, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % K
    x = torch.randn(n, 3, 16, 16, generator=generator) + 2 * torch.eye(3)[labels][:, :, None, None]
    return x.contiguous(memory_format=torch.channels_last), labels


class Trial:
    """A method on random views: model, state and batches."""

    def __init__(self, name, **options):
        self.method, self.config = resolve(name, options)
        uses_text = getattr(self.method, "uses_text", lambda config: False)(self.config)
        table = torch.linalg.qr(torch.randn(8, K, generator=torch.Generator().manual_seed(0)))[0].T.contiguous()
        text = table if uses_text else None
        projection = getattr(self.config, "projection", 0) or None
        self.model = ImageEncoder("toy", K, text_width=8 if uses_text else None, projection=projection)
        self.model.unit = getattr(self.config, "unit", False)
        self.slots = torch.arange(9)
        width = self.model.width, self.model.embedding_width
        context = Context(K, SLOTS, self.slots, torch.arange(9, SLOTS), *width, text, seed=0)
        make = getattr(self.method, "state", lambda context, config: torch.nn.Module())
        self.state = make(context, self.config)
        if hasattr(self.method, "prepare"):
            self.method.prepare(self.encode, self.slots, faces(9, seed=99)[1], self.state)
        self.model.train()

    def encode(self):
        """The model's output on the nine labelled faces."""
        with torch.no_grad():
            output = self.model.eval()(faces(9, seed=99)[0])
        self.model.train()
        return output

    def optimiser(self, lr):
        return Adam([*self.model.parameters(), *self.state.parameters()], lr=lr)

    def batch(self, seed=0, progress=0.5):
        x, labels = faces(6, seed)
        ask = self.asks
        weak, strong = (
            tuple(faces(6, seed + 100 * i + shift)[0] for i in range(ask[kind]))
            for kind, shift in (("weak", 10), ("strong", 20))
        )
        others = 9 + torch.arange(6) if any(ask.values()) else torch.arange(0)
        draws = torch.Generator().manual_seed(seed)
        return Batch(x, labels, torch.arange(6), weak, strong, others, torch.tensor(progress), draws)

    @property
    def asks(self):
        """Views of the unlabelled batch."""
        return views(self.method, self.config)

    def step(self, seed=0, batch=None) -> Step:
        return self.method.step(self.model, batch or self.batch(seed), self.state, self.config)
