"""Convolutions on maps a few pixels wide, as one matrix product.

A 48-pixel face leaves a ResNet's last stage as a 2 x 2 map. CPU convolution kernels tile along a
row of the output, so at width 2 most of each tile is padding; gathered into columns, the same sums
are a single dense matrix product. Same weights, same result up to rounding. On an EPYC, in fp32,
ResNet-18 there and back on 48 faces of 48 pixels takes 423 ms so and 578 ms by the library on one
thread, 326 and 506 ms on two; at 224 pixels it makes no difference. `python -m fercore bench step`
measures it here. On a GPU, and on wide maps, the library's own kernel runs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDEST = 4  # pixels; measured: at 3 the product wins 3-10 times, at 6 it is even


class ByColumns(torch.autograd.Function):
    """x [b, h, w, c] and weight [o, kernel, kernel, c] -> [b, p, q, o]: patches times weights.

    The gradient with respect to x adds each patch position to one padded buffer in place;
    differentiating the gather itself would allocate and fill one buffer per position.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        kernel = weight.shape[1]
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        padded = F.pad(x, (0, 0, padding, padding, padding, padding)) if padding else x
        patches = torch.cat([padded[window] for window in windows(padded.shape, kernel, stride)], -1)
        ctx.save_for_backward(patches, weight)
        return F.linear(patches, weight.reshape(len(weight), -1))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        patches, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        to_weight = (flat.T @ patches.reshape(len(flat), -1)).view_as(weight)
        if not ctx.needs_input_grad[0]:
            return None, to_weight, None, None
        b, h, w, c = ctx.shape
        padding, kernel = ctx.padding, weight.shape[1]
        to_patches = (flat @ weight.reshape(len(weight), -1)).view(*gradient.shape[:3], -1, c)
        padded = gradient.new_zeros(b, h + 2 * padding, w + 2 * padding, c)
        for i, window in enumerate(windows(padded.shape, kernel, ctx.stride)):
            padded[window] += to_patches[..., i, :]
        return padded[:, padding : padding + h, padding : padding + w], to_weight, None, None


def windows(shape: tuple[int, ...], kernel: int, stride: int) -> list[tuple[slice, ...]]:
    """Where each of the kernel x kernel positions lies in a padded [b, h, w, c] map, over all outputs."""
    reach = [stride * ((size - kernel) // stride) + 1 for size in shape[1:3]]
    every = slice(None)
    return [
        (every, slice(i, i + reach[0], stride), slice(j, j + reach[1], stride), every)
        for i in range(kernel)
        for j in range(kernel)
    ]


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` without bias, by columns where the output is narrow and the tensors are on a CPU."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
        kernel, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        width = (x.shape[3] + 2 * padding - kernel) // stride + 1
        if x.device.type != "cpu" or width > WIDEST:
            return super().forward(x)
        weight = self.weight.permute(0, 2, 3, 1)  # both are views when the memory is channels_last
        x = x.permute(0, 2, 3, 1)
        if torch.is_autocast_enabled("cpu"):
            x, weight = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (x, weight))
        return ByColumns.apply(x, weight, stride, padding).permute(0, 3, 1, 2)


def by_columns(network: nn.Module) -> nn.Module:
    """Let every plain square convolution choose by the width of its map; parameters stay as they are."""
    for module in network.modules():
        if type(module) is not nn.Conv2d or module.bias is not None or module.groups > 1:
            continue
        square = not isinstance(module.padding, str) and all(
            len(set(pair)) == 1 for pair in (module.kernel_size, module.stride, module.padding)
        )
        if square and module.dilation == (1, 1) and module.padding_mode == "zeros":
            module.__class__ = Conv2d
    return network
