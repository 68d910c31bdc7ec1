"""Convolution, and its transpose in the forms that are fastest on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ADAttributionLogic.graph.operations import Padding, WeightedOperation, pad_argument


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
        if _suits_onednn(output) and self.groups == 1:
            if set(self.stride) != {1}:
                if set(self.dilation) == {1} and all(before >= 0 for before, _ in self.padding):
                    return (self._interleave_back(output, weight, shape),)
            elif shape[1] > 1:
                return (self._convolve_back(output, weight),)
            elif self._is_symmetric():
                return (self._backward(output, weight, shape),)
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

    def _backward(self, output: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """The transposed map as autograd has it: two to three times faster where the image has a single channel."""
        image = output.new_empty(()).expand(shape)  # only its shape counts
        padding, zeros = [before for before, _ in self.padding], [0] * self.dimensions
        wanted = [True, False, False]
        result: Tensor = torch.ops.aten.convolution_backward(
            output, image, weight, None, self.stride, padding, self.dilation, False, zeros, 1, wanted
        )[0]
        return result

    def _convolve_back(self, output: Tensor, weight: Tensor) -> Tensor:
        """The transposed map with stride 1, as a convolution with the mirrored kernel."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        margin = tuple((r - before, r - after) for r, (before, after) in zip(reach, self.padding, strict=True))
        mirrored = weight.flip(list(range(2, weight.ndim))).transpose(0, 1).contiguous()
        back = Convolution(mirrored, None, self.stride, margin, self.dilation, 1)
        return back._convolve(output, mirrored, None)

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
