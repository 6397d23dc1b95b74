"""One step of a method on made-up faces, and what else the tests of methods share."""

import copy

import torch
import toy

from fercore.encoders import ImageEncoder
from fercore.methods import resolve, views
from fercore.methods.api import Batch, Context, Step
from fercore.training import loop

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
    """A method on random views: model, state, optimisers and batches. To a method's `update` it is the training."""

    def __init__(self, name, lr=1e-3, **options):
        self.method, self.config = resolve(name, options)
        self.options = self.config
        uses_text = getattr(self.method, "uses_text", lambda config: False)(self.config)
        table = torch.linalg.qr(torch.randn(8, K, generator=torch.Generator().manual_seed(0)))[0].T.contiguous()
        text = table if uses_text else None
        projection = getattr(self.config, "projection", 0) or None
        self.model = ImageEncoder("toy", K, text_width=8 if uses_text else None, projection=projection)
        self.model.unit = getattr(self.config, "unit", False)
        self.slots = torch.arange(9)
        width = self.model.width, self.model.embedding_width
        context = Context(K, SLOTS, self.slots, torch.arange(9, SLOTS), *width, text, 0, self.model)
        make = getattr(self.method, "state", lambda context, config: torch.nn.Module())
        self.state = make(context, self.config)
        if hasattr(self.method, "prepare"):
            self.method.prepare(self.encode, self.slots, faces(9, seed=99)[1], self.state)
        self.model.train()
        self.optimisers = loop.optimisers(self.method, self.model, self.state, self.config, lr)

    def encode(self):
        """The model's output on the nine labelled faces."""
        with torch.no_grad():
            output = self.model.eval()(faces(9, seed=99)[0])
        self.model.train()
        return output

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

    def descend(self, loss, *names):
        """As a training descends, but that gradients reach the views, too."""
        loss.backward()
        for name in names or self.optimisers:
            self.optimisers[name].step()
            self.optimisers[name].zero_grad()

    def update(self, seed=0, batch=None) -> Step:
        """As the loop has it: the method's own update, or its step and one descent."""
        if hasattr(self.method, "update"):
            return self.method.update(self, batch or self.batch(seed))
        step = self.step(seed, batch)
        self.descend(step.total)
        return step

    def load(self, other):
        """All that a checkpoint holds of another trial."""
        for mine, theirs in ((self.model, other.model), (self.state, other.state)):
            mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(copy.deepcopy(other.optimisers[name].state_dict()))
