"""Convolution, and its transpose in the forms that are fastest on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.graph.operations import Padding, WeightedOperation, pad_argument

#: Up to so many input channels, a strided convolution is transposed faster by its residues than by oneDNN.
FEW_CHANNELS = 16


def _suits_onednn(x: Tensor) -> bool:
    """Whether to convolve with oneDNN.

    PyTorch leaves it for small inputs, such as the slabs of :mod:`~.chains`, to a 3D convolution that is 5 to 20 times
    slower; the result is the same to rounding.
    """
    return (
        x.ndim == 5
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


@dataclass(frozen=True, eq=False)
class Convolution(WeightedOperation):
    """Convolution in 1, 2 or 3 dimensions.

    Attributes
    ----------
    stride, dilation : tuple of int
        Per spatial axis.
    padding : tuple of (int, int)
        Zeros before and after, per spatial axis.
    groups : int
    """

    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    groups: int

    @property
    def dimensions(self) -> int:
        """Number of spatial axes."""
        return len(self.stride)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel size per spatial axis."""
        return tuple(self.weight.shape[2:])

    def _is_symmetric(self) -> bool:
        return all(before == after >= 0 for before, after in self.padding)

    def map(self, inputs: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        (x,) = inputs
        return self._convolve(x, weight, None)

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return self._convolve(x, self.weight, self.bias)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.dimensions - 1]
        padding = tuple(before for before, _ in self.padding)
        if not self._is_symmetric():
            x, padding = F.pad(x, pad_argument(self.padding)), (0,) * self.dimensions
        if _suits_onednn(x):
            return torch.mkldnn_convolution(x, weight, bias, padding, self.stride, self.dilation, self.groups)
        result: Tensor = convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)
        return result

    def transpose(self, output: Tensor, weight: Tensor, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        (shape,) = shapes
        if _suits_onednn(output):
            back = self._as_a_convolution(output, weight, shape)
            if back is not None:
                return (back,)
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dimensions - 1]
        symmetric = self._is_symmetric()
        padding = tuple(before for before, _ in self.padding) if symmetric else (0,) * self.dimensions
        # Rows at the far end that no kernel position reaches when the stride does not divide the size.
        unreached = [
            size + before + after - ((n - 1) * stride + dilation * (kernel - 1) + 1)
            for size, (before, after), n, stride, dilation, kernel in zip(
                shape[2:], self.padding, output.shape[2:], self.stride, self.dilation, self.kernel, strict=True
            )
        ]
        result: Tensor = transposed(
            output, weight, None, self.stride, padding, tuple(unreached), self.groups, self.dilation
        )
        if not symmetric:
            for axis, ((before, _), size) in enumerate(zip(self.padding, shape[2:], strict=True), start=2):
                result = result.narrow(axis, before, size)
        return (result,)

    def _as_a_convolution(self, output: Tensor, weight: Tensor, shape: torch.Size) -> Tensor | None:
        """The transposed map by convolutions, where these are faster than oneDNN's transposed one; else None."""
        if set(self.stride) == {1}:
            if shape[1] == 1 and all(min(pair) >= 0 for pair in self.padding):
                return self._convolve_back_by_planes(output, weight, shape)
            # Also where mirroring many weights costs more than it saves (small maps): the bits of oneDNN's transposed
            # convolution depend on the number of threads.
            return self._convolve_back(output, weight)
        if self.groups != 1 or set(self.dilation) != {1} or any(before < 0 for before, _ in self.padding):
            return None
        if set(self.kernel) == {1} and all(pair == (0, 0) for pair in self.padding):
            back = output.new_zeros(shape)
            every = (slice(None), slice(None), *(slice(None, None, s) for s in self.stride))
            back[every] = self._convolve_back(output, weight)
            return back
        return self._interleave_back(output, weight, shape) if shape[1] <= FEW_CHANNELS else None

    def _convolve_back_by_planes(self, output: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """The transposed map to an image of one channel, with stride 1.

        A processor convolves to many channels at once; with one, most of it would idle. So the kernel's lines along
        the last axis are channels of their own, whose maps are then added where they belong.
        """
        first, second, third = self.kernel
        ones = (1,) * self.dimensions
        lines = weight[:, 0].permute(1, 2, 0, 3).reshape(first * second, -1, 1, 1, third).flip(-1).contiguous()
        reach = self.dilation[2] * (third - 1)
        margin = ((0, 0), (0, 0), (reach - self.padding[2][0], reach - self.padding[2][1]))
        dilation = (1, 1, self.dilation[2])
        maps = Convolution(lines, None, ones, margin, dilation, 1)._convolve(output, lines, None)
        padded = [n + before + after for n, (before, after) in zip(shape[2:4], self.padding[:2], strict=True)]
        total = output.new_zeros((len(maps), *padded, maps.shape[-1]))
        rows, columns = output.shape[2:4]
        for number in range(first * second):
            row, column = number // second * self.dilation[0], number % second * self.dilation[1]
            total[:, row : row + rows, column : column + columns] += maps[:, number]
        for axis, ((before, _), size) in enumerate(zip(self.padding[:2], shape[2:4], strict=True), start=1):
            total = total.narrow(axis, before, size)
        return total[:, None]

    def _convolve_back(self, output: Tensor, weight: Tensor) -> Tensor:
        """The transposed map with stride 1, as a convolution with the mirrored kernel."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        margin = tuple((r - before, r - after) for r, (before, after) in zip(reach, self.padding, strict=True))
        groups = self.groups
        by_group = weight.flip(list(range(2, weight.ndim))).unflatten(0, (groups, -1)).transpose(1, 2)
        mirrored = by_group.flatten(0, 1).contiguous()
        ones = (1,) * self.dimensions
        return Convolution(mirrored, None, ones, margin, self.dilation, groups)._convolve(output, mirrored, None)

    def _interleave_back(self, output: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """The transposed map with a stride: what it gives every s-th voxel is a convolution with every s-th weight.

        With position i + p = q·s + r, ``g[q·s + r] = Σ_m output[q − m] · weight[m·s + r]``: a convolution with stride 1
        whose channels are the residues r, several times faster than a transposed one.
        """
        taps = [-(-k // s) for k, s in zip(self.kernel, self.stride, strict=True)]
        filled = [(0, m * s - k) for m, s, k in zip(taps, self.stride, self.kernel, strict=True)]
        split = [n for pair in zip(taps, self.stride, strict=True) for n in pair]
        parts = F.pad(weight, pad_argument(tuple(filled))).reshape(*weight.shape[:2], *split)
        rest, tap = range(3, parts.ndim, 2), range(2, parts.ndim, 2)  # axes of residues and of taps
        kernels = parts.flip(list(tap)).permute(1, *rest, 0, *tap).reshape(-1, weight.shape[0], *taps)
        margin = tuple((m - 1, m - 1) for m in taps)
        ones = (1,) * self.dimensions
        found = Convolution(kernels.contiguous(), None, ones, margin, ones, 1)._convolve(output, kernels, None)
        places = found.shape[2:]
        residues = found.reshape(len(found), shape[1], *self.stride, *places)
        d = self.dimensions
        order = [axis for n in range(d) for axis in (2 + d + n, 2 + n)]
        whole = residues.permute(0, 1, *order).reshape(
            len(found), shape[1], *(q * s for q, s in zip(places, self.stride, strict=True))
        )
        kept = [
            (-before, size + before - there)  # cut in front; at the far end cut, or fill where no kernel reached
            for (before, _), size, there in zip(self.padding, shape[2:], whole.shape[2:], strict=True)
        ]
        return F.pad(whole, pad_argument(tuple(kept)))

    def describe(self) -> str:
        kernel = "×".join(map(str, self.kernel))
        return f"Convolution {kernel}, {self.weight.shape[1] * self.groups}→{self.weight.shape[0]} channels"
