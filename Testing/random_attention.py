"""Attention, tokens, gates and norms of tokens as operations on maps, in the forms in which users write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Tokens that the tests can afford.
MOST = 400
WIDTH, HEADS = 6, 2


def tokens_of(x: Tensor) -> Tensor:
    """(N, C, …) → (N, places, C)."""
    if x[0, 0].numel() > MOST:
        raise RuntimeError("too many tokens for a test")
    return x.flatten(2).transpose(1, 2)


class OnTokens(nn.Module):
    """Something done with the places of maps as tokens, added to them or instead of them.

    Parameters
    ----------
    channels : int
    something : callable
        Module and tokens (N, places, channels) → tokens of as many places and of WIDTH features.
    members : dict
    is_residual : bool
    """

    def __init__(
        self,
        channels: int,
        something: Callable[[OnTokens, Tensor], Tensor],
        members: dict[str, nn.Module] | None = None,
        is_residual: bool = True,
    ) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(channels, 3 * WIDTH), nn.Linear(WIDTH, channels)
        self.members = nn.ModuleDict(members or {})
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        self.something, self.is_residual = something, is_residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.something(self, tokens_of(x)))
        maps = y.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + maps if self.is_residual else maps


def heads(x: Tensor) -> Tensor:
    """(N, places, WIDTH) → (N, HEADS, places, WIDTH / HEADS)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def queries_keys_values(m: OnTokens, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = m.qkv(x).chunk(3, -1)
    return heads(q), heads(k), heads(v)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def every_third_closed(places: int) -> Tensor:
    """No one looks at every third place, but for the first, which everyone sees."""
    return ((torch.arange(places) % 3 != 1) | (torch.arange(places) == 0)).expand(places, places)


def fused(m: OnTokens, x: Tensor) -> Tensor:
    return joined(F.scaled_dot_product_attention(*queries_keys_values(m, x)))


def fused_scaled(m: OnTokens, x: Tensor) -> Tensor:
    return joined(F.scaled_dot_product_attention(*queries_keys_values(m, x), scale=0.3, is_causal=True))


def fused_closed(m: OnTokens, x: Tensor) -> Tensor:
    mask = every_third_closed(x.shape[1])
    return joined(F.scaled_dot_product_attention(*queries_keys_values(m, x), attn_mask=mask))


def fused_biased(m: OnTokens, x: Tensor) -> Tensor:
    n = x.shape[1]
    near = -0.3 * (torch.arange(n)[:, None] - torch.arange(n)[None]).abs().double()
    return joined(F.scaled_dot_product_attention(*queries_keys_values(m, x), attn_mask=near, scale=1.0))


def multiplied(m: OnTokens, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(m, x)
    return joined(F.softmax(q @ k.transpose(-2, -1) / 1.7, dim=-1) @ v)


def masked(m: OnTokens, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(m, x)
    scores = (q @ k.mT).masked_fill(~every_third_closed(x.shape[1]), float("-inf"))
    return joined(scores.softmax(-1).matmul(v))


def by_bmm(m: OnTokens, x: Tensor) -> Tensor:
    q, k, v = (part.flatten(0, 1) for part in queries_keys_values(m, x))
    y = torch.bmm(torch.softmax(torch.bmm(q, k.mT), -1), v)
    return joined(y.unflatten(0, (-1, HEADS)))


def by_einsum(m: OnTokens, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(m, x)
    weights = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
    return torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2)


def stacked(m: OnTokens, x: Tensor) -> Tensor:
    n, places, _ = x.shape
    q, k, v = m.qkv(x).reshape(n, places, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1).matmul(v).permute(0, 2, 1, 3).reshape(n, places, -1)


def in_windows(m: OnTokens, x: Tensor) -> Tensor:
    """Rolled, filled up to windows of four places, each on its own, and back."""
    n, places, _ = x.shape
    y = torch.roll(F.pad(x, (0, 0, 0, -places % 4)), 2, 1)
    q, k, v = queries_keys_values(m, y.unflatten(1, (-1, 4)).flatten(0, 1))
    y = joined((q @ k.mT).softmax(-1) @ v).unflatten(0, (n, -1)).flatten(1, 2)
    return torch.roll(y, -2, 1)[:, :places]


def with_class_token(m: OnTokens, x: Tensor) -> Tensor:
    y = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1)
    return multiplied(m, y)[:, 1:]


def from_one_query(m: OnTokens, x: Tensor) -> Tensor:
    """A learned token asks all places, and all places get its answer."""
    q, k, v = queries_keys_values(m, torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1))
    return joined((q[:, :, :1] @ k.mT).softmax(-1) @ v).expand(-1, x.shape[1], -1)


def gated(m: OnTokens, x: Tensor) -> Tensor:
    """SwiGLU."""
    left, right, _ = m.qkv(x).chunk(3, -1)
    return F.silu(left) * right


def halves_gated(m: OnTokens, x: Tensor) -> Tensor:
    return F.glu(m.qkv(x)[..., : 2 * WIDTH], -1)


def mixed(m: OnTokens, x: Tensor) -> Tensor:
    """Places mixed by a dense layer."""
    return m.members["places"](m.qkv(x)[..., :WIDTH].mT).mT


def first_of(name: str) -> Callable[[OnTokens, Tensor], Tensor]:
    return lambda m, x: m.members[name](m.qkv(x)[..., :WIDTH])


def of_itself(m: OnTokens, x: Tensor) -> Tensor:
    y = m.qkv(x)[..., :WIDTH]
    return m.members["attention"](y, y, y, need_weights=False)[0]


def places_first(m: OnTokens, x: Tensor) -> Tensor:
    y = m.qkv(x)[..., :WIDTH].transpose(0, 1)
    return m.members["attention"](y, y, y)[0].transpose(0, 1)


def pooled_keys(m: OnTokens, x: Tensor) -> Tensor:
    """Keys and values of every second place."""
    q, k, v = queries_keys_values(m, x)
    return joined((q @ k[:, :, ::2].mT).softmax(-1) @ v[:, :, ::2])


def turned(m: OnTokens, x: Tensor) -> Tensor:
    """Rotary positions: halves of the features turned by an angle of their place."""
    q, k, v = queries_keys_values(m, x)
    angle = torch.arange(x.shape[1]).double()[:, None] * 0.2

    def turn(y: Tensor) -> Tensor:
        y = F.pad(y, (0, 1)) if y.shape[-1] % 2 else y
        half = y.shape[-1] // 2
        return y * angle.cos() + torch.cat([-y[..., half:], y[..., :half]], -1) * angle.sin()

    return joined((turn(q) @ turn(k).mT).softmax(-1) @ v)


def normed(m: OnTokens, x: Tensor) -> Tensor:
    y = m.qkv(x)[..., :WIDTH]
    return F.normalize(y, dim=-1) + F.layer_norm(y, (WIDTH,), eps=0.1)


def encoder(**options: object) -> Callable[[], dict[str, nn.Module]]:
    shared = {"dim_feedforward": 7, "dropout": 0.1, "batch_first": True}
    return lambda: {"layer": nn.TransformerEncoderLayer(WIDTH, HEADS, **{**shared, **options})}


def attention(**options: object) -> Callable[[], dict[str, nn.Module]]:
    return lambda: {"attention": nn.MultiheadAttention(WIDTH, HEADS, **options)}


def made(
    something: Callable[[OnTokens, Tensor], Tensor],
    members: Callable[[], dict[str, nn.Module]] | None = None,
    is_residual: bool = True,
) -> Callable[[int, int], nn.Module]:
    """Of channels and places."""
    return lambda channels, places: OnTokens(channels, something, members() if members else None, is_residual)


#: By name, of channels and places.
ON_TOKENS: dict[str, Callable[[int, int], nn.Module]] = {
    "attention": made(multiplied),
    "attention, nothing around": made(multiplied, is_residual=False),
    "attention, fused": made(fused),
    "attention, fused, scaled, causal": made(fused_scaled),
    "attention, fused, closed places": made(fused_closed),
    "attention, fused, biased": made(fused_biased),
    "attention, masked": made(masked),
    "attention, bmm": made(by_bmm),
    "attention, einsum": made(by_einsum),
    "attention, stacked": made(stacked),
    "attention in windows": made(in_windows),
    "attention, class token": made(with_class_token),
    "attention of one query": made(from_one_query),
    "attention, pooled keys": made(pooled_keys),
    "attention, turned": made(turned),
    "MultiheadAttention": made(of_itself, attention(batch_first=True)),
    "MultiheadAttention, places first": made(places_first, attention()),
    "encoder layer": made(first_of("layer"), encoder()),
    "encoder layer, norm first": made(first_of("layer"), encoder(norm_first=True, activation="gelu")),
    "gate of tokens": made(gated),
    "GLU of tokens": made(halves_gated),
    "norm of tokens": made(first_of("norm"), lambda: {"norm": nn.LayerNorm(WIDTH)}, False),
    "RMS norm of tokens": made(first_of("norm"), lambda: {"norm": nn.RMSNorm(WIDTH, eps=0.1)}),
    "norms by function": made(normed),
    "tokens mixed": lambda channels, places: OnTokens(channels, mixed, {"places": nn.Linear(places, places)}),
}
