"""dlib's face-recognition network (Davis King, public domain) as an encoder: 29 convolutions, trained to tell people.

Its affine layers are batch norms here, so that it can be trained on. The feature is the mean of the last map of each of
64, 128 and 256 channels, side by side: 448 values, for frozen features and for training end to end alike.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fercore.augment import MEAN, STD
from fercore.errors import UserError

NAME = "dlib_resnet29"
PIXELS = (64, 150)  # least and most: below, the last maps vanish; 150 are the pixels that it was trained on
# Channels of the residual blocks; at a "down" the map is halved.
BLOCKS = [(32, ""), (32, ""), (32, ""), (64, "down"), (64, ""), (64, ""), (64, ""), (128, "down"), (128, ""), (128, "")]
BLOCKS += [(256, "down"), (256, ""), (256, ""), (256, "down")]
POOLED = (64, 128, 256)  # chosen: channels whose last maps make the feature
WIDTH = sum(POOLED)
CENTRE, RANGE = (122.782, 117.001, 104.298), 256.0  # of its input: (RGB in 0..255 - CENTRE) / RANGE
EPSILON = 1e-12  # of the batch norms; on faces the least variance is 6e-8, in a layer of 256 channels


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


class Block(nn.Module):
    """Residual block. "Down": a convolution of stride 2 without padding beside a mean pool of 2 x 2.

    Their maps may differ by a row and a column, and in channels: the sum takes what is missing as 0, as dlib does.
    """

    def __init__(self, inputs: int, outputs: int, down: bool):
        super().__init__()
        self.down = down
        stride, padding = (2, 0) if down else (1, 1)
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, padding, bias=False), norm(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if not self.down:
            return F.relu(out + x)
        shortcut = F.avg_pool2d(x, 2)
        height, width = (max(sides) for sides in zip(out.shape[2:], shortcut.shape[2:]))

        def widened(y: Tensor) -> Tensor:
            return F.pad(y, (0, width - y.shape[3], 0, height - y.shape[2], 0, out.shape[1] - y.shape[1]))

        return F.relu(widened(out) + widened(shortcut))


class DlibResNet(nn.Module):
    """Faces [b, 3, h, w] in ImageNet normalisation, of 64 to 150 pixels -> features [b, 448].

    Below 103 pixels the last block is left out, as its map would be smaller than its filter.
    Raises UserError for faces of another size.
    """

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 7, 2, bias=False), norm(32)
        inputs = [32, *(outputs for outputs, _ in BLOCKS)]
        self.blocks = nn.ModuleList(Block(i, o, bool(down)) for i, (o, down) in zip(inputs, BLOCKS))
        # From the normalisation of the views to its own.
        mean, std, centre = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD, CENTRE))
        self.register_buffer("scale", std * 255 / RANGE, persistent=False)
        self.register_buffer("shift", (mean * 255 - centre) / RANGE, persistent=False)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 448"]:
        if not all(PIXELS[0] <= side <= PIXELS[1] for side in x.shape[2:]):
            height, width = x.shape[2:]
            raise UserError(
                f"encoder: {NAME} reads faces of {PIXELS[0]} to {PIXELS[1]} pixels, not of {width} x {height}; "
                "set image_size"
            )
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x * self.scale + self.shift))), 3, 2)
        means: dict[int, Tensor] = {}
        for block, (channels, _) in zip(self.blocks, BLOCKS):
            if block.down and min(x.shape[2:]) < block.conv1.kernel_size[0]:
                break  # only the last one can be
            x = block(x)
            means[channels] = x.mean((2, 3))
        return torch.cat([means[channels] for channels in POOLED], 1)
