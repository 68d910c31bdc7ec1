"""Small random networks from all supported operations, and what is wrong with their explanations.

hypothesis draws the networks: up to twelve operations out of all that the layer graph knows, in the forms in which
users write them (modules, functions, in place), used once or again, in branches that meet again, on 1D, 2D or 3D images
of odd sizes. What is compared is derived without ours: the module itself, autograd, full passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from random_attention import ON_TOKENS
from small_networks import ADAPTIVE, AVG_POOL, CONV, MAX_POOL, NORM, always_in_boxes, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.errors import UnsupportedOperationError
from ADAttributionLogic.incremental.forward import IncrementalForward
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.occlusion.covering import cover_boxes

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """Channels and spatial size."""

    channels: int
    size: tuple[int, ...]

    @property
    def axes(self) -> int:
        return len(self.size)


LINEAR = ("linear", "bilinear", "trilinear")
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ADAPTIVE_MAX = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
INSTANCE_NORM = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class Written(nn.Module):
    """An operation that users write as a function in forward."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Buffered(nn.Module):
    """Normalisation inside the network: a mean and a deviation for each voxel or channel."""

    def __init__(self, shape: Shape, by_channel: bool) -> None:
        super().__init__()
        size = (1,) * shape.axes if by_channel else shape.size
        self.register_buffer("mean", torch.randn(1, shape.channels, *size))
        self.register_buffer("deviation", torch.rand(shape.channels, *size) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class LayerScale(nn.Module):
    """A residual branch, scaled by a parameter for each channel."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.branch = CONV[shape.axes - 1](shape.channels, shape.channels, 1)
        self.scale = nn.Parameter(torch.randn(shape.channels, *(1,) * shape.axes))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


class Residual(nn.Module):
    """The sum of two branches, one of them scaled, or what one has beyond the other."""

    def __init__(self, shape: Shape, factor: float) -> None:
        super().__init__()
        self.branch = CONV[shape.axes - 1](shape.channels, shape.channels, 3, padding=1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(F.leaky_relu(self.branch(x), 0.1), x, alpha=self.factor)


class SqueezeAndExcitation(nn.Module):
    """Channels gated by what all places say together."""

    def __init__(self, shape: Shape, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(shape.channels, 2), nn.Linear(2, shape.channels)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(tuple(range(2, x.ndim)))
        return x * self.gate(self.up(F.relu(self.down(means)))).view(1, -1, *(1,) * (x.ndim - 2))


class FunctionalLayer(nn.Module):
    """A convolution and a batch normalisation whose parameters are held by hand."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, shape.channels, *(3,) * shape.axes))
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("variance", torch.rand(3) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
        return F.batch_norm(convolve(x, self.weight, padding="same"), self.mean, self.variance, training=self.training)


class Branches(nn.Module):
    """An operation in a branch, whose result joins its input's channels."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x.clone())], 1)


class ShortcutA(nn.Module):
    """ResNet's shortcut without weights: every second voxel, and channels of zeros (He et al. 2016, option A)."""

    def forward(self, x: Tensor) -> Tensor:
        left = x[(slice(None), slice(None), *(slice(None, None, 2),) * (x.ndim - 2))]
        return torch.cat([left, torch.zeros_like(left[:, :1])], 1)


class PlaceGate(nn.Module):
    """Places gated by what their channels say (the spatial half of CBAM)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = CONV[shape.axes - 1](2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        said = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.gate(said))


def written_into(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 1:3] = 2 * y[:, :, :2]
    return y


def on_tokens(make: Callable[[int, int], nn.Module]) -> Callable[[Shape], nn.Module]:
    return lambda s: make(s.channels, int(np.prod(s.size)))


def written(function: Callable[[Tensor], Tensor]) -> Callable[[Shape], nn.Module]:
    return lambda s: Written(function)


def z_score(x: Tensor) -> Tensor:
    axes = tuple(range(1, x.ndim))
    return (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + 0.1)


def every_mode_of_padding(mode: str) -> Callable[[Shape], nn.Module]:
    return lambda s: Written(lambda x: F.pad(x, (1, 2) * s.axes, mode=mode))


OPERATIONS: dict[str, Callable[[Shape], nn.Module]] = {
    "convolution": lambda s: CONV[s.axes - 1](s.channels, 4, 3, padding=1),
    "strided convolution": lambda s: CONV[s.axes - 1](s.channels, 3, 3, stride=2, padding=2),
    "grouped convolution": lambda s: CONV[s.axes - 1](s.channels, 2 * s.channels, 3, padding=1, groups=s.channels),
    "dilated convolution": lambda s: CONV[s.axes - 1](s.channels, 3, 2, dilation=2, padding=1),
    "mirroring convolution": lambda s: CONV[s.axes - 1](s.channels, 3, 3, padding=1, padding_mode="reflect"),
    "batch norm": lambda s: NORM[s.axes - 1](s.channels),
    "instance norm": lambda s: INSTANCE_NORM[s.axes - 1](s.channels),
    "instance norm, affine": lambda s: INSTANCE_NORM[s.axes - 1](s.channels, affine=True),
    "group norm": lambda s: nn.GroupNorm(1, s.channels),
    "group norm by channel": lambda s: nn.GroupNorm(s.channels, s.channels, affine=False),
    "layer norm of the last axis": lambda s: nn.LayerNorm(s.size[-1]),
    "channels last, layer norm": lambda s: Written(
        lambda x: F.layer_norm(x.movedim(1, -1), (s.channels,)).movedim(-1, 1)
    ),
    "layer scale": LayerScale,
    "residual": lambda s: Residual(s, 1.0),
    "scaled residual": lambda s: Residual(s, -0.7),
    "squeeze and excitation": lambda s: SqueezeAndExcitation(s, torch.sigmoid),
    "hard squeeze and excitation": lambda s: SqueezeAndExcitation(s, F.hardsigmoid),
    "normalisation by voxel": lambda s: Buffered(s, False),
    "normalisation by channel": lambda s: Buffered(s, True),
    "shortcut A": lambda s: ShortcutA(),
    "max pool": lambda s: MAX_POOL[s.axes - 1](2),
    "overlapping max pool": lambda s: MAX_POOL[s.axes - 1](3, 2, 1),
    "max pool, ceil": lambda s: MAX_POOL[s.axes - 1](2, ceil_mode=True),
    "average pool": lambda s: AVG_POOL[s.axes - 1](2, ceil_mode=True),
    "adaptive average pool": lambda s: ADAPTIVE[s.axes - 1](3),
    "ReLU": lambda s: nn.ReLU(),
    "ReLU in place": lambda s: nn.ReLU(inplace=True),
    "ReLU6": lambda s: nn.ReLU6(),
    "leaky ReLU": lambda s: nn.LeakyReLU(0.2),
    "leaky ReLU, negative": lambda s: nn.LeakyReLU(-0.3),
    "PReLU": lambda s: nn.PReLU(s.channels),
    "ELU": lambda s: nn.ELU(0.5),
    "ELU, negative": lambda s: nn.ELU(-0.8),
    "SELU": lambda s: nn.SELU(),
    "CELU": lambda s: nn.CELU(0.6),
    "GELU": lambda s: nn.GELU(),
    "GELU, tanh": lambda s: nn.GELU(approximate="tanh"),
    "SiLU": lambda s: nn.SiLU(inplace=True),
    "Hardswish": lambda s: nn.Hardswish(),
    "Hardsigmoid": lambda s: nn.Hardsigmoid(),
    "Mish": lambda s: nn.Mish(),
    "Softplus": lambda s: nn.Softplus(2.0),
    "tanh": written(torch.tanh),
    "sigmoid": written(torch.sigmoid),
    "absolute value": written(torch.abs),
    "clamp(min=0)": written(lambda x: x.clamp(min=0)),
    "clamp": written(lambda x: torch.clamp(x, -0.5, 0.8)),
    "hardtanh": lambda s: nn.Hardtanh(-0.4, 1.1),
    "dropout": lambda s: nn.Dropout(0.5),
    "x.float(), x.to()": written(lambda x: x.to(x.device).to(torch.float64).type_as(x)),
    "constant minus x": written(lambda x: 1.5 - x),
    "x/3 − 1": written(lambda x: x / 3 - 1),
    "own sigmoid gate": written(lambda x: x * torch.sigmoid(x)),
    "z-score of the image": written(z_score),
    "quotient": written(lambda x: x / (1.5 + x.abs())),
    "square": written(lambda x: x**2),
    "square root": written(lambda x: torch.sqrt(0.1 + x.abs())),
    "logarithm": written(lambda x: torch.log(0.1 + torch.exp(-x.abs()))),
    "product": written(lambda x: x * F.relu(x)),
    "softmax of channels": written(lambda x: F.softmax(x, 1)),
    "mean of channels": written(lambda x: x.mean(1, keepdim=True)),
    "sum of channels": written(lambda x: x.sum(1).unsqueeze(1)),
    "maximum of channels": written(lambda x: x.amax(1, keepdim=True)),
    "max(dim)": written(lambda x: torch.max(x, dim=1, keepdim=True)[0]),
    "mean taken off": written(lambda x: x - x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "mean of an axis": written(lambda x: x + x.mean(2, keepdim=True)),
    "crop": written(lambda x: x[:, :, 1:-1]),
    "crop of the end": written(lambda x: x[..., :-2]),
    "every second": written(lambda x: x[:, :, ::2]),
    "every second channel": written(lambda x: x[:, ::2]),
    "select": written(lambda x: x + x[:, 0].unsqueeze(1)),
    "chunk": written(lambda x: torch.cat([c.relu() for c in x.chunk(2, 1)][::-1], 1)),
    "split": written(lambda x: torch.cat([x.split(1, 1)[0], x], 1)),
    "stack": written(lambda x: torch.stack([x, 2 * x], 2).sum(2)),
    "flip": written(lambda x: x.flip(2)),
    "roll": written(lambda x: x.roll(1, 2)),
    "repeat": written(lambda x: x.repeat(1, 2, *(1,) * (x.ndim - 2))),
    "expand": written(lambda x: x[:, :1].expand(-1, 3, *(-1,) * (x.ndim - 2)).contiguous()),
    "transpose": written(lambda x: x.transpose(-1, -2) if x.ndim > 3 else x),
    "zeros around": written(lambda x: F.pad(x, (1, 0))),
    "ones around": written(lambda x: F.pad(x, (1, 1), value=1.0)),
    "mirrored border": every_mode_of_padding("reflect"),
    "repeated border": every_mode_of_padding("replicate"),
    "wrapped border": every_mode_of_padding("circular"),
    "wrapping convolution": lambda s: CONV[s.axes - 1](s.channels, 3, 3, padding=1, padding_mode="circular"),
    "transposed convolution": lambda s: TRANSPOSED[s.axes - 1](s.channels, 2, 3, stride=2, padding=1, output_padding=1),
    "grouped transposed convolution": lambda s: TRANSPOSED[s.axes - 1](
        s.channels, 2 * s.channels, 2, groups=s.channels
    ),
    "linear upsampling": written(lambda x: F.interpolate(x, scale_factor=1.5, mode=LINEAR[x.ndim - 3])),
    "linear upsampling, aligned": written(
        lambda x: F.interpolate(x, size=(8,) * (x.ndim - 2), mode=LINEAR[x.ndim - 3], align_corners=True)
    ),
    "adaptive max pool": lambda s: ADAPTIVE_MAX[s.axes - 1](1),
    "nearest upsampling": written(lambda x: F.interpolate(x, scale_factor=2) if x.shape[2] < 10 else x),
    "F.relu_": written(F.relu_),
    "x += 1": written(lambda x: x.add_(1.0)),
    "x *= 0.7": written(lambda x: x.mul_(0.7)),
    "functional layer": FunctionalLayer,
    "dilated max pool": lambda s: MAX_POOL[s.axes - 1](2, 1, dilation=2),
    "max pool, padded, ceil": lambda s: MAX_POOL[s.axes - 1](3, 2, 1, ceil_mode=True),
    "deviation of channels": written(lambda x: x / (0.3 + x.std(1, keepdim=True)) if x.shape[1] > 1 else x),
    "variance of an axis": written(lambda x: x - x.var(2, keepdim=True)),
    "gate with bounds": lambda s: SqueezeAndExcitation(s, lambda g: torch.sigmoid(g) * 2 - 0.5),
    "constant channel": written(lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1)),
    "roll of two axes": written(lambda x: x.roll((2, -1), (1, -1))),
    "flip of two axes": written(lambda x: x.flip((1, -1))),
    "stack in front": written(lambda x: torch.stack([x.relu(), x]).sum(0)),
    "stack and unbind": written(lambda x: torch.stack(x.unbind(1)[::-1], 1)),
    "narrow": written(lambda x: x.narrow(2, 1, x.shape[2] - 2)),
    "expand_as": written(lambda x: x[:, :1].expand_as(x) * x.sigmoid()),
    "tile": written(lambda x: x.tile(1, 2, *(1,) * (x.ndim - 2))),
    "GLU": written(lambda x: F.glu(torch.cat([x, 2 * x], 1), 1)),
    "gate of places": lambda s: PlaceGate(s),
    "norm of places": written(lambda x: F.group_norm(x, 1, eps=0.1)),
    "min(dim)": written(lambda x: torch.min(x, dim=1, keepdim=True)[0] + x),
    "norm of channels": written(lambda x: x / (0.1 + x.norm(dim=1, keepdim=True))),
    "deviation of two axes": written(lambda x: x / (0.3 + x.std((1, 2), keepdim=True))),
    "mean of two axes": written(lambda x: x + x.mean((1, -1), keepdim=True)),
    "adaptive max pool to 3": lambda s: ADAPTIVE_MAX[s.axes - 1](3),
    "adaptive average pool to 4": lambda s: ADAPTIVE[s.axes - 1](4),
    "minimum": written(lambda x: x.amin(1, keepdim=True) + x),
    "swapped and back": written(lambda x: x.swapaxes(1, 2).contiguous().relu_().swapaxes(1, 2)),
    "x -= mean": written(lambda x: x.sub_(x.mean(2, keepdim=True))),
    "written into a slice": written(written_into),
    **{name: on_tokens(make) for name, make in ON_TOKENS.items()},
}

#: What users may write that need not be known: refused by its name, or right.
RARE: dict[str, Callable[[Shape], nn.Module]] = {
    "cumulative sum": written(lambda x: x.cumsum(2)),
    "sorted": written(lambda x: x.sort(2)[0]),
    "largest two": written(lambda x: x.topk(2, 2)[0]),
    "where": written(lambda x: torch.where(x > 0, x, 0.1 * x)),
    "maximum of two": written(lambda x: torch.maximum(x, 0.3 - x)),
    "product over an axis": written(lambda x: x.prod(2, keepdim=True)),
    "einsum": written(lambda x: torch.einsum("bc...,bd...->bd...", x, x)),
    "written in part": written(lambda x: torch.cat([x.clone().index_fill_(1, torch.tensor([0]), 0.5), x], 1)),
    "sine": written(torch.sin),
    "modulo": written(lambda x: x.fmod(1.0)),
    "median": written(lambda x: x - x.median(2, keepdim=True)[0]),
    "pixel shuffle": written(lambda x: F.pixel_shuffle(torch.cat([x] * 4, 1), 2) if x.ndim == 4 else x.cumsum(1)),
    "argmax": written(lambda x: x * (x.argmax(1, keepdim=True) + 1)),
    "gathered": written(lambda x: x.gather(1, torch.zeros_like(x, dtype=torch.long))),
    # Its own copy: PyTorch exports nothing that is written in place where windows overlap.
    "unfold": written(
        lambda x: x.unfold(2, 3, 2).flatten(3).mean(3) if x.ndim == 3 else x.unfold(2, 3, 2).clone()[..., 0]
    ),
    "logsumexp": written(lambda x: x.logsumexp(1, keepdim=True)),
}

HEADS: dict[str, Callable[[Shape], nn.Module]] = {
    "flatten, dense": lambda s: nn.Sequential(nn.Flatten(), nn.Linear(s.channels * int(np.prod(s.size)), 3)),
    "pool, dense": lambda s: nn.Sequential(ADAPTIVE[s.axes - 1](1), nn.Flatten(), nn.Linear(s.channels, 2)),
    "mean, dense, softmax": lambda s: nn.Sequential(
        Written(lambda x: x.mean(tuple(range(2, x.ndim)))), nn.Linear(s.channels, 2), nn.Softmax(1)
    ),
    "maximum, dense, sigmoid": lambda s: nn.Sequential(
        Written(lambda x: x.amax(tuple(range(2, x.ndim)))), nn.Linear(s.channels, 1), nn.Sigmoid()
    ),
    "convolution, pool, log-softmax": lambda s: nn.Sequential(
        CONV[s.axes - 1](s.channels, 2, 1), ADAPTIVE[s.axes - 1](1), nn.LogSoftmax(1)
    ),
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """A network, an image that it takes, and the names of its operations, its head last."""

    names: tuple[str, ...]
    network: nn.Module
    image: Tensor


@st.composite
def networks(draw: st.DrawFn, depth: int = 12) -> Drawn:
    """A network of drawn operations and an image that it takes."""
    axes = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(7, (17, 13, 9)[axes - 1])) for _ in range(axes))
    torch.manual_seed(draw(st.integers(0, 1000)))
    x = torch.randn(1, draw(st.integers(1, 2)), *size, dtype=torch.float64)
    layers: list[nn.Module] = []
    names: list[str] = []
    value = x
    known = st.sampled_from(sorted(OPERATIONS))
    for number in range(draw(st.integers(1, depth))):
        form = draw(st.sampled_from(["once"] * 14 + ["again"] * 2 + ["branch"] * 3 + ["rare"]))
        name = draw(st.sampled_from(sorted(RARE))) if form == "rare" else draw(known)
        if form == "again" and layers:
            name, layer = names[number % len(names)], layers[number % len(layers)]
        else:
            layer = {**OPERATIONS, **RARE}[name](Shape(value.shape[1], tuple(value.shape[2:]))).double().eval()
            layer = Branches(layer) if form == "branch" else layer
        try:
            following = layer(value.clone())
        except (RuntimeError, ValueError):  # the map is too small for it, or is not what the module was made for
            continue
        if following[0].numel() > 4000 or following[0, 0].numel() < 2:
            continue
        layers, names, value = [*layers, layer], [*names, name], following.detach()
    head = draw(st.sampled_from(sorted(HEADS)))
    layers.append(HEADS[head](Shape(value.shape[1], tuple(value.shape[2:]))))
    return Drawn((*names, head), make_lively(nn.Sequential(*layers)), x)


def own_probabilities(network: nn.Module, x: Tensor, head: str) -> Tensor:
    """What the network says; autograd needs to keep what an operation after it overwrites."""
    for layer in network:
        x = layer(x.clone())
    scores = x.flatten(1)
    if "sigmoid" in head:
        return torch.cat([1 - scores, scores], 1)
    if "log" in head:
        return scores.exp()
    return scores if "softmax" in head else F.softmax(scores, 1)


def refusal(drawn: Drawn) -> str:
    """The operation by which a network is refused; "" if it is explained."""
    try:
        explainable(drawn.network, drawn.image.shape[1:])
    except UnsupportedOperationError as error:
        return str(error)
    return ""


def faults(drawn: Drawn) -> list[str]:
    """What is not as the network itself, autograd and full passes have it."""
    network, x, head = drawn.network, drawn.image, drawn.names[-1]
    explained = explainable(network, x.shape[1:])
    evaluation = Evaluation(explained, x, CPU)
    found: list[str] = []

    def compare(what: str, ours: Tensor, theirs: Tensor) -> None:
        if not torch.allclose(ours, theirs, rtol=1e-7, atol=1e-9):
            found.append(f"{what}: off by {float((ours - theirs).abs().max()):.3g}")

    image = x.clone().requires_grad_(True)
    probability = own_probabilities(network, image, head)
    compare("probabilities", explained.layers.probabilities(evaluation.logits), probability.detach())
    chosen = int(probability[0].argmax())
    (expected,) = torch.autograd.grad(probability[0, chosen], image, allow_unused=True)
    expected = torch.zeros_like(x) if expected is None else expected
    sensitivity = attribute(evaluation, "sensitivity", options={"postprocess": "signed"})
    compare("gradient", torch.from_numpy(sensitivity.values), expected[0])
    if any(getattr(layer.operation, "is_rectifier", False) for layer in explained.folded.layers):
        guided = attribute(evaluation, "guided-backprop", options={"postprocess": "signed"})
        if not np.isfinite(guided.values).all():
            found.append("guided backpropagation: not finite")

    relevance = attribute(evaluation, "lrp", options={"rule": "e-rule"})
    off = abs(relevance.unattributed) / max(abs(relevance.to_attribute), 1e-12)
    if not np.isfinite(relevance.values).all():
        found.append("relevance: not finite")
    if off > 0.1 + 1e-6 and not any("not conserved" in note for note in relevance.notes):
        found.append(f"relevance: {off:.2f} of it is lost, which is not said")

    size = np.array(x.shape[2:])
    lows = np.stack([np.zeros_like(size), size // 3, size - 3, size - 1])
    highs = np.minimum(lows + 3, size)
    full = x.repeat(len(lows), *(1,) * (x.ndim - 1))
    for number, (low, high) in enumerate(zip(lows, highs, strict=True)):
        full[(number, slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))] = 0
    exact = torch.cat([evaluation.logits_of(one[None]) for one in full])
    own = torch.cat([own_probabilities(network, one[None], head) for one in full]).detach()
    compare("full passes", explained.layers.probabilities(exact), own)
    compare("full passes together", evaluation.logits_of(full), exact)
    compare("windows followed", followed(evaluation, lows, highs), exact)
    with always_in_boxes():
        compare("windows followed in boxes", followed(evaluation, lows, highs), exact)
    return found


def followed(evaluation: Evaluation, lows: np.ndarray, highs: np.ndarray) -> Tensor:
    """Logits with windows of zeros, by following what they change."""
    cover = cover_boxes(torch.zeros(1, 1, *(1,) * lows.shape[1], dtype=torch.float64), lows, highs)
    found = torch.full((len(lows), evaluation.logits.shape[1]), torch.nan, dtype=torch.float64)
    for numbers, logits in IncrementalForward(evaluation.recording()).run(lows, highs, cover):
        found[torch.from_numpy(numbers)] = logits
    return found
