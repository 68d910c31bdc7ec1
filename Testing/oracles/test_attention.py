"""Attention, windows, tokens and slices: logits and gradients against autograd, whatever becomes of the batch axis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_networks import image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import GradientRule
from ADAttributionLogic.errors import NetworkError, UnsupportedOperationError
from ADAttributionLogic.graph.attention import MatrixProduct
from ADAttributionLogic.graph.layer_graph import fold_batch_norm
from ADAttributionLogic.graph.recording import record, walk_back
from ADAttributionLogic.tracing.tracer import trace

SIZE = (8, 6, 4)


class Tokens(nn.Module):
    """Patches of a volume as tokens of 12 features, something done with them, and the mean of all as scores."""

    def __init__(self, something: Callable[[nn.Module, Tensor], Tensor], members: dict[str, nn.Module]) -> None:
        super().__init__()
        self.patches, self.scores = nn.Conv3d(1, 12, 2, 2), nn.Linear(12, 2)
        self.members = nn.ModuleDict(members)
        self.position = nn.Parameter(torch.randn(1, 24, 12))
        self.first = nn.Parameter(torch.randn(1, 1, 12))
        self.something = something

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.scores(self.something(self, tokens).mean(1))


def heads(x: Tensor) -> Tensor:
    """(N, L, 12) → (N, 3, L, 4)."""
    return x.unflatten(-1, (3, 4)).transpose(1, 2)


def by_hand(m: nn.Module, x: Tensor) -> Tensor:
    """As in timm and ViT's first code: queries, keys and values stacked in front."""
    n, places, width = x.shape
    q, k, v = m.members["qkv"](x).reshape(n, places, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    attention = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
    return x + (attention @ v).transpose(1, 2).reshape(n, places, width)


def by_einsum(m: nn.Module, x: Tensor) -> Tensor:
    """As in MONAI."""
    n, places, width = x.shape
    q, k, v = m.members["qkv"](x).view(n, places, 3, 3, 4).permute(2, 0, 3, 1, 4)
    weights = torch.einsum("blxd,blyd->blxy", q, k).softmax(-1)
    return torch.einsum("bhxy,bhyd->bhxd", weights, v).permute(0, 2, 1, 3).reshape(n, places, width)


def by_bmm(m: nn.Module, x: Tensor) -> Tensor:
    """Heads folded into the batch axis."""
    n, places, _ = x.shape
    q, k, v = (heads(part).reshape(n * 3, places, 4) for part in m.members["qkv"](x).chunk(3, -1))
    out = torch.bmm(torch.softmax(torch.bmm(q, k.mT) / 2, -1), v)
    return out.view(n, 3, places, 4).transpose(1, 2).reshape(n, places, 12)


def windows(m: nn.Module, x: Tensor) -> Tensor:
    """Shifted windows of 2×3×2 places, with a mask and a position bias, as in Swin."""
    n = x.shape[0]
    y = torch.roll(x.view(n, 4, 3, 2, 12), (1, -1), (1, 2))
    y = y.view(n, 2, 2, 1, 3, 1, 2, 12).permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, 12, 12)
    mask = torch.where(torch.arange(12)[:, None] % 3 == torch.arange(12)[None] % 3, 0.0, -100.0)
    mask = torch.stack([torch.zeros(12, 12), mask])
    q, k, v = m.members["qkv"](y).reshape(n * 2, 12, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    scores = q @ k.transpose(-2, -1) + m.position[0, :12].unsqueeze(0)
    scores = scores.view(n, 2, 3, 12, 12) + mask[None, :, None]
    y = (scores.view(-1, 3, 12, 12).softmax(-1) @ v).transpose(1, 2).reshape(n * 2, 12, 12)
    y = y.view(n, 2, 1, 1, 2, 3, 2, 12).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, 4, 3, 2, 12)
    return torch.roll(y, (-1, 1), (1, 2)).flatten(1, 3)


def with_class_token(m: nn.Module, x: Tensor) -> Tensor:
    tokens = torch.cat([m.first.expand(x.shape[0], -1, -1), x], 1)
    return m.members["attention"](tokens, tokens, tokens)[0][:, :1]


def places_first(m: nn.Module, x: Tensor) -> Tensor:
    y = x.transpose(0, 1)
    return m.members["attention"](y, y, y)[0].transpose(0, 1)


def masked(m: nn.Module, x: Tensor) -> Tensor:
    q = heads(m.members["down"](x))
    allowed = torch.ones(24, 24, dtype=torch.bool).tril()
    return (q @ q.mT).masked_fill(~allowed, float("-inf")).softmax(-1).matmul(q).transpose(1, 2).flatten(2)


def sdpa(**options: object) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (heads(part) for part in m.members["qkv"](x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)

    return run


def slice_by_slice(m: nn.Module, x: Tensor) -> Tensor:
    """A 2D network on each of 12 slices, as tokens: M3T, and many networks on slices."""
    maps = x.transpose(1, 2).reshape(12, 1, 6, 4)
    y = m.members["flat"](maps)
    return y.flatten(1).unflatten(0, (1, 12)) if x.shape[0] == 1 else y.flatten(1).unflatten(0, (-1, 12))


def of_several_volumes(m: nn.Module, x: Tensor) -> Tensor:
    """A depthwise convolution of each head's volume, as in MViT."""
    n = x.shape[0]
    y = x.reshape(n, 24, 3, 4).permute(0, 2, 3, 1).reshape(n * 3, 4, 4, 3, 2)
    return m.members["volumes"](y).reshape(n, 12, -1).transpose(1, 2)


def written_into(m: nn.Module, x: Tensor) -> Tensor:
    y = m.members["down"](x).clone()
    y[:, 3:7, 2:] += 2 * x[:, :4, 2:]
    return y


FLAT = nn.Sequential(
    *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.InstanceNorm2d(4, affine=True)),
    *(nn.PReLU(4), nn.AvgPool2d((2, 1)), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 3, 2)),
    *(nn.Upsample((4, 5), mode="bilinear"), nn.AdaptiveAvgPool2d((2, 2))),
)
VOLUMES = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, groups=4), nn.BatchNorm3d(4), nn.PReLU(4), nn.AvgPool3d(1, 2))

WRITTEN: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "by hand": by_hand,
    "einsum": by_einsum,
    "bmm of folded heads": by_bmm,
    "shifted windows": windows,
    "class token": with_class_token,
    "places first": places_first,
    "masked": masked,
    "scaled_dot_product_attention": sdpa(),
    "causal": sdpa(is_causal=True, scale=0.3),
    "mask that adds": sdpa(attn_mask=torch.linspace(-1, 1, 24 * 24).double().view(24, 24)),
    "mask that closes rows": sdpa(attn_mask=(torch.arange(24) % 5 > 0)[:, None].expand(24, 24)),
    "encoder": lambda m, x: m.members["encoder"](x),
    "encoder, norm first": lambda m, x: m.members["encoder_2"](x),
    "several volumes": of_several_volumes,
    "written into": written_into,
    "constant from the left": lambda m, x: torch.matmul(m.position[0, :12, :12].repeat(2, 2), x),
    "a matrix for each head": lambda m, x: (heads(x) @ m.position[0].view(3, 4, 24)).mean(-1, True).transpose(1, 2)
    .flatten(2).repeat(1, 1, 4),
    "a vector": lambda m, x: (x @ m.first[0, 0])[..., None].expand(-1, -1, 12),
    "stacked in front": lambda m, x: torch.stack([x, 2 * m.members["down"](x)], 0).mean(0),
    "a number for each place": lambda m, x: m.members["down"](x) + m.position[0, :, :1],
    "norm of tokens": lambda m, x: m.members["tokens"](m.members["down"](x)),
}  # fmt: skip


def network(something: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    layer = {"batch_first": True, "dropout": 0.1, "dim_feedforward": 20}
    members = {
        "qkv": nn.Linear(12, 36), "down": nn.Linear(12, 12), "flat": FLAT, "volumes": VOLUMES,
        "attention": nn.MultiheadAttention(12, 3, batch_first=something is with_class_token),
        "encoder": nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, **layer), 2),
        "encoder_2": nn.TransformerEncoderLayer(12, 3, norm_first=True, activation="gelu", **layer),
        "tokens": nn.BatchNorm1d(24),
    }  # fmt: skip
    return make_lively(Tokens(something, members))


#: Modules of PyTorch, which it computes by a fused form where no gradients are needed.
FUSED = [name for name in WRITTEN if "encoder" in name or "token" in name]


@pytest.mark.parametrize(
    ("name", "needs_gradients"), [*((name, True) for name in WRITTEN), *((name, False) for name in FUSED)]
)
def test_logits_and_gradients(name: str, needs_gradients: bool) -> None:
    """For a batch of two, of which the graph was made with one; without gradients, PyTorch would fuse the encoder."""
    made = network(WRITTEN[name]).requires_grad_(needs_gradients)
    x = torch.cat([image(1, 3, SIZE), image(1, 3, SIZE, seed=1)]).requires_grad_(True)
    expected = made(x)
    start = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, x, start)
    recording = record(fold_batch_norm(trace(made, (1, *SIZE))), x.detach())
    torch.testing.assert_close(recording.logits, expected.detach(), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(walk_back(recording, start, GradientRule()), gradient, atol=1e-10, rtol=1e-9)


def test_slices() -> None:
    made = network(slice_by_slice)
    x = image(1, 3, SIZE).requires_grad_(True)
    expected = made(x)
    (gradient,) = torch.autograd.grad(expected[0, 1], x)
    recording = record(fold_batch_norm(trace(made, (1, *SIZE))), x.detach())
    torch.testing.assert_close(recording.logits, expected.detach(), atol=1e-10, rtol=1e-10)
    found = walk_back(recording, torch.tensor([[0.0, 1.0]]).double(), GradientRule())
    torch.testing.assert_close(found, gradient, atol=1e-10, rtol=1e-9)


def test_attention_is_computed_by_the_graph_itself() -> None:
    """The same products and softmax on every device, not a fused kernel."""
    graph = trace(network(sdpa()), (1, *SIZE))
    assert sum(isinstance(layer.operation, MatrixProduct) for layer in graph.layers) == 2


REFUSED = {
    "drops attention at random": (sdpa(dropout_p=0.2), "dropout_p=0.2"),
    "mixes images": (lambda m, x: torch.cat([x, x], 0).mean(0, keepdim=True), "batch axis"),
    "softmax over images": (lambda m, x: x.softmax(0), "batch axis"),
    "where of voxels": (lambda m, x: torch.where(x > 0, x, 2 * x), r"aten\.gt"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_name(name: str) -> None:
    function, reason = REFUSED[name]
    with pytest.raises((NetworkError, UnsupportedOperationError), match=reason):
        trace(network(function), (1, *SIZE))


def test_the_fast_path_of_attention_is_as_it_was() -> None:
    torch.backends.mha.set_fastpath_enabled(True)
    trace(network(WRITTEN["encoder"]), (1, *SIZE))
    assert torch.backends.mha.get_fastpath_enabled()
