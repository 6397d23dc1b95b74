"""Convolutions on maps a few pixels wide, as one matrix product.

A 48-pixel face leaves a ResNet's last stage as a 2 x 2 map. CPU convolution kernels tile along a
row of the output, so at width 2 most of each tile is padding; gathered into columns, the same sums
are a single dense matrix product. Same weights, same result up to rounding, several times faster
(`python -m fercore bench step`). On a GPU, and on wide maps, the library's own kernel runs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDEST = 4  # pixels; measured: at 3 the product wins 3-10 times, at 6 it is even


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, by columns where the output is narrow and the tensors are on a CPU."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
        kernel, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        height = (x.shape[2] + 2 * padding - kernel) // stride + 1
        width = (x.shape[3] + 2 * padding - kernel) // stride + 1
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if x.device.type != "cpu" or width > WIDEST or not plain:
            return super().forward(x)
        x = x.permute(0, 2, 3, 1)  # a view when x is channels_last
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if padding:
            x = F.pad(x, (0, 0, padding, padding, padding, padding))
        rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
        patches = torch.cat(
            [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(kernel) for j in range(kernel)], -1
        )
        weight = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)
        return F.linear(patches, weight, self.bias).permute(0, 3, 1, 2)


def by_columns(network: nn.Module) -> nn.Module:
    """Let every square convolution of `network` choose by the width of its map; parameters stay as they are."""
    for module in network.modules():
        if type(module) is not nn.Conv2d or isinstance(module.padding, str):
            continue
        if all(len(set(pair)) == 1 for pair in (module.kernel_size, module.stride, module.padding)):
            module.__class__ = Conv2d
    return network
