"""Grad-CAM and attention rollout of transformers, against the same written by hand with hooks on MONAI's ViT."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from covered_networks import COVERED, M3T, FirstResult, leave_out_compiled_torchvision
from small_networks import image, make_lively
from torch import Tensor, nn

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import NetworkError, UsageError
from ADAttributionLogic.graph.operations import Softmax
from ADAttributionLogic.graph.receptive_field import UnitPlacement, place_on_image
from ADAttributionLogic.networks.network import explainable

CPU = torch.device("cpu")
TARGET = Target(1, "logit")
#: Patches of 8 voxels: 2×3×4 of them.
SIZE, GRID, STEP = (16, 24, 32), (2, 3, 4), (8.0, 8.0, 8.0)
PLACES = UnitPlacement((3.5, 3.5, 3.5), STEP)


def vit(**options: object) -> FirstResult:
    """MONAI's ViT with three blocks, not trained."""
    leave_out_compiled_torchvision()
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is an optional oracle: pip install monai einops")
    pytest.importorskip("einops", reason="MONAI's transformers need it: pip install einops")
    torch.manual_seed(0)
    shared = {"in_channels": 1, "img_size": SIZE, "patch_size": 8, "hidden_size": 24, "mlp_dim": 40, "num_layers": 3}
    settings = {"num_heads": 4, "classification": True, "num_classes": 2, "post_activation": "none", **options}
    return make_lively(FirstResult(nets.ViT(**shared, **settings)))


def evaluate(network: nn.Module, x: Tensor) -> Evaluation:
    return Evaluation(explainable(network, x.shape[1:]), x, CPU)


class Averaged(nn.Module):
    """The mean of the patches' tokens instead of a class token."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit, self.scores = vit, nn.Linear(24, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.vit(x)[0].mean(1))


# ------------------------------------------------------------------------------------------------------------ Grad-CAM


def by_hooks(network: nn.Module, module: nn.Module, x: Tensor, averaged: bool) -> Tensor:
    """Grad-CAM of a module's tokens on their grid, by autograd."""
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, given, found: kept.append(found))
    score = network(x)[0, 1]
    handle.remove()
    tokens = kept[0]
    (gradient,) = torch.autograd.grad(score, tokens)
    tokens, gradient = (t[0, -24:] for t in (tokens, gradient))  # the class token stands in front
    if averaged:
        gradient = gradient.mean(0, keepdim=True)
    return (tokens * gradient).sum(1).view(GRID).detach()


@pytest.mark.parametrize("patches", ["conv", "perceptron"])
def test_grad_cam_is_that_of_hooks(patches: str) -> None:
    """By default of what the class token's last attention is to: behind it, patches change nothing."""
    network, x = vit(proj_type=patches), image(1, 3, SIZE)
    evaluation = evaluate(network, x)
    for layer in (None, "network.blocks.2.norm1", "network.blocks.0", "network.patch_embedding"):
        for variant in ("grad-cam", "hires-cam"):
            module = network.get_submodule(layer or "network.blocks.2.norm1")
            expected = by_hooks(network, module, x, variant == "grad-cam")
            assert float(expected.abs().max()) > 1e-6
            for signed in (True, False):
                options = {"layer": layer, "variant": variant, "signed": signed}
                found = attribute(evaluation, "grad-cam", TARGET, options)
                wanted = place_on_image(expected if signed else expected.clamp(min=0), PLACES, SIZE)
                torch.testing.assert_close(torch.from_numpy(found.values[0]), wanted, rtol=0, atol=1e-9)
                assert found.notes[0].startswith(f"{variant} of network.") and ": 2×3×4 " in found.notes[0]
    found = attribute(evaluation, "grad-cam", TARGET)
    assert "of network.blocks.2.norm1: 2×3×4 tokens (without the class token), 8×8×8 voxels" in found.notes[0]


def test_grad_cam_of_averaged_tokens() -> None:
    """Without a class token it is the last norm, and as the network averages over tokens itself, grad-cam."""
    network, x = Averaged(vit(classification=False).network), image(1, 3, SIZE)
    expected = by_hooks(network, network.vit.norm, x, averaged=True)
    found = attribute(evaluate(network, x), "grad-cam", TARGET, {"signed": True})
    assert found.notes[0].startswith("grad-cam of vit.norm: 2×3×4 ")
    wanted = place_on_image(expected, PLACES, SIZE)
    torch.testing.assert_close(torch.from_numpy(found.values[0]), wanted, rtol=0, atol=1e-9)


class Swin(nn.Module):
    """SwinUNETR's encoder with windows of 2×2×2 tokens, and the mean of its last maps."""

    def __init__(self) -> None:
        super().__init__()
        leave_out_compiled_torchvision()
        pytest.importorskip("einops", reason="MONAI's transformers need it: pip install einops")
        swin = pytest.importorskip("monai.networks.nets.swin_unetr", reason="MONAI is an optional oracle")
        sizes = {"window_size": (2, 2, 2), "patch_size": (2, 2, 2)}
        self.encoder = swin.SwinTransformer(1, 6, depths=(2, 1, 1, 1), num_heads=(2, 2, 2, 2), **sizes)
        self.head = nn.Linear(96, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[-1].mean((2, 3, 4)))


def test_windows() -> None:
    """Rolled and cut into windows, and three mergings later a grid of places 32 voxels apart; no rollout there."""
    torch.manual_seed(0)
    network = make_lively(Swin())
    x = image(1, 3, (64, 32, 64))
    maps = network.encoder(x)[-1].detach().requires_grad_(True)
    assert maps.shape[2:] == (2, 1, 2)
    (gradient,) = torch.autograd.grad(network.head(maps.mean((2, 3, 4)))[0, 1], maps)
    expected = (maps * gradient.mean((2, 3, 4), keepdim=True))[0].sum(0).detach()
    evaluation = evaluate(network, x)
    found = attribute(evaluation, "grad-cam", TARGET, {"signed": True})
    assert found.notes[0].startswith("grad-cam of encoder") and "2×1×2 units, 32×" in found.notes[0]
    wanted = place_on_image(expected, UnitPlacement((15.5,) * 3, (32.0,) * 3), tuple(x.shape[2:]))
    torch.testing.assert_close(torch.from_numpy(found.values[0]), wanted, rtol=0, atol=1e-9)
    with pytest.raises(NetworkError, match=r"Softmax.*within 2048 windows of 8 tokens each.*Use grad-cam"):
        attribute(evaluation, "attention-rollout", TARGET)


@pytest.mark.parametrize("name", ["mvit_v2_s", "swin3d_t"])
def test_units_of_pooled_and_windowed_tokens_are_where_they_look(name: str) -> None:
    """Before any attention, by autograd: the voxels that a token reads are centred on its place."""
    from ADAttributionLogic.graph.receptive_field import unit_grids

    leave_out_compiled_torchvision()
    pytest.importorskip("torchvision", reason="optional oracle: pip install torchvision")
    torch.manual_seed(0)
    covered = COVERED[name]
    network = make_lively(covered.narrow())
    evaluation = evaluate(network, torch.randn(1, *covered.small, dtype=torch.float64))
    found = attribute(evaluation, "grad-cam", TARGET, {"signed": True})
    last = {"mvit_v2_s": "hires-cam of blocks.2.norm1: 4×4×4 tokens (wi", "swin3d_t": "grad-cam of norm: 3×4×5 units"}
    assert found.notes[0].startswith(last[name])
    grids = unit_grids(evaluation.network.layers)
    first = min(i for i, layer in enumerate(evaluation.network.layers.layers) if "norm1" in layer.name)
    x = evaluation.image.clone().requires_grad_(True)
    patches = network.conv_proj(x) if name == "mvit_v2_s" else network.patch_embed(x).movedim(-1, 1)
    assert grids[first].size == patches.shape[2:]
    (gradient,) = torch.autograd.grad(patches[0, :, 1, 2, 3].sum(), x)
    read = gradient[0].abs().sum(0).nonzero().double()
    centre = (read.amin(0) + read.amax(0)) / 2
    placement = grids[first].placement
    expected = [o + s * i for o, s, i in zip(placement.offset, placement.step, (1, 2, 3), strict=True)]
    assert centre.tolist() == pytest.approx(expected)


def test_tokens_that_are_no_grid_of_voxels_are_refused() -> None:
    """M3T: slices of three planes are no grid; its 3D maps, far before the transformer, only if asked for."""
    torch.manual_seed(0)
    network, x = make_lively(M3T(9, channels=4, width=12, depth=2, heads=3)), image(1, 3, (9, 9, 9))
    evaluation = evaluate(network, x)
    with pytest.raises(NetworkError, match=r"no grid of voxels: from cat .*Use lrp .*the option layer, cnn_3d\.5"):
        attribute(evaluation, "grad-cam", TARGET)
    with pytest.raises(UsageError, match=r"encoder\S* .*is no grid of units.*Choose one of .*cnn_3d"):
        attribute(evaluation, "grad-cam", TARGET, {"layer": "encoder"})
    assert "of cnn_3d.5" in attribute(evaluation, "grad-cam", TARGET, {"layer": "cnn_3d.5"}).notes[0]


def flat_vit() -> nn.Module:
    """torchvision's ViT for pictures, narrow."""
    leave_out_compiled_torchvision()
    models = pytest.importorskip("torchvision.models.vision_transformer", reason="pip install torchvision")
    return models.VisionTransformer(32, 8, 2, 3, 12, 20, num_classes=2)


def test_a_vit_for_pictures() -> None:
    """Gradients by autograd; Grad-CAM and rollout where they are in 3D."""
    torch.manual_seed(0)
    network, x = make_lively(flat_vit()), image(3, 2, (32, 32))
    nn.init.normal_(network.heads.head.weight)  # torchvision begins with scores of 0
    evaluation = evaluate(network, x)
    leaf = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(network(leaf)[0, 1], leaf)
    found = attribute(evaluation, "sensitivity", TARGET, {"postprocess": "signed"})
    scale = float(expected.abs().max())
    torch.testing.assert_close(torch.from_numpy(found.values), expected[0], rtol=0, atol=1e-9 * scale)
    shown = attribute(evaluation, "grad-cam", TARGET, {"signed": True})
    assert "of encoder.layers.encoder_layer_1.ln_1: 4×4 tokens" in shown.notes[0]
    assert "to 4×4 tokens" in attribute(evaluation, "attention-rollout", TARGET).notes[0]


def test_a_vit_whose_scores_are_bounded_is_refused_by_name() -> None:
    """MONAI's ViT ends with tanh unless post_activation says otherwise: between −1 and 1 there are no log-odds."""
    with pytest.raises(NetworkError, match=r"network\.classification_head\.1 \(Tanh\).*no logits. Let it return the"):
        explainable(vit(post_activation="Tanh"), (1, *SIZE))


class OneBrightPatch(nn.Module):
    """A ViT by hand whose class token attends to bright patches alone, and says how bright they are."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv3d(1, 8, 4, 4, bias=False)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.query, self.scores = nn.Linear(8, 1), nn.Linear(8, 2, bias=False)
        nn.init.zeros_(self.query.weight)
        nn.init.ones_(self.query.bias)
        nn.init.zeros_(self.patches.weight)
        nn.init.constant_(self.patches.weight[0], 1 / 64)
        nn.init.zeros_(self.scores.weight)
        self.scores.weight.data[1, 0] = 4.0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        attention = (4 * self.query(tokens) @ tokens[..., :1].mT).softmax(-1)
        tokens = tokens + attention @ tokens
        return self.scores(tokens[:, 0])


# ------------------------------------------------------------------------------------------------------------- rollout


def saved_attention(network: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What MONAI saves with save_attn=True, and by autograd the gradient of the score with respect to it."""
    blocks = network.get_submodule("vit.blocks" if hasattr(network, "vit") else "network.blocks")
    for block in blocks:
        block.attn.save_attn = True
    score, kept = network(x)[0, 1], []
    for block in blocks:
        attention = block.attn.att_mat
        kept.append(attention[0].clone())
        block.attn.save_attn = False
        del block.attn.att_mat
    weights: list[Tensor] = []  # the same once more with its graph: dropout follows the softmax
    handles = [
        block.attn.drop_weights.register_forward_pre_hook(lambda _, given: weights.append(given[0])) for block in blocks
    ]
    score = network(x)[0, 1]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(score, weights)
    for one, other in zip(kept, weights, strict=True):
        torch.testing.assert_close(one, other[0])
    return [(one, gradient[0]) for one, gradient in zip(kept, gradients, strict=True)]


FUSE = {"mean": lambda a: a.mean(0), "max": lambda a: a.max(0).values, "min": lambda a: a.min(0).values}


def by_hand(attention: list[tuple[Tensor, Tensor]], heads: str, discard: float, residual: float) -> Tensor:
    """Abnar & Zuidema 2020, equation 1: all matrices, multiplied; who looks, at whom."""
    rolled = torch.eye(attention[0][0].shape[-1], dtype=torch.float64)
    for weights, _ in attention:
        fused = FUSE[heads](weights)
        lowest = fused.flatten().sort().values[int(discard * fused.numel())]
        fused = torch.where(fused < lowest, 0.0, fused)
        mixed = residual * torch.eye(len(fused)) + (1 - residual) * fused
        rolled = mixed / mixed.sum(1, keepdim=True) @ rolled
    return rolled


def by_gradients(attention: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Chefer et al. 2021 (generic attention explainability), equations 5 and 6."""
    relevance = torch.eye(attention[0][0].shape[-1], dtype=torch.float64)
    for weights, gradient in attention:
        relevance = relevance + (weights * gradient).clamp(min=0).mean(0) @ relevance
    return relevance


def require_rolled(evaluation: Evaluation, options: dict[str, object], tokens: Tensor) -> None:
    found = attribute(evaluation, "attention-rollout", TARGET, options)
    wanted = place_on_image(tokens.view(GRID), PLACES, SIZE)
    assert float(wanted.max()) > 1.002 * float(wanted.min())
    torch.testing.assert_close(torch.from_numpy(found.values[0]), wanted, rtol=0, atol=1e-9)
    assert "to 2×3×4 tokens, 8×8×8 voxels apart" in found.notes[0]


def test_rollout_is_that_of_the_saved_attention() -> None:
    network, x = vit(), image(1, 3, SIZE)
    evaluation, attention = evaluate(network, x), saved_attention(network, x)
    assert attention[0][0].shape == (4, 25, 25)
    for heads in FUSE:
        for discard, residual in ((0.0, 0.5), (0.9, 0.5), (0.3, 0.1)):
            options = {"heads": heads, "discard": discard, "residual": residual}
            require_rolled(evaluation, options, by_hand(attention, heads, discard, residual)[0, 1:])
    require_rolled(evaluation, {"variant": "gradient"}, by_gradients(attention)[0, 1:])
    with pytest.raises(UsageError, match="from the class-token, not from the mean"):
        attribute(evaluation, "attention-rollout", TARGET, {"readout": "mean"})


def test_rollout_of_averaged_tokens() -> None:
    network, x = Averaged(vit(classification=False).network), image(1, 3, SIZE)
    evaluation, attention = evaluate(network, x), saved_attention(network, x)
    require_rolled(evaluation, {}, by_hand(attention, "mean", 0.0, 0.5).mean(0))
    require_rolled(evaluation, {"variant": "gradient"}, by_gradients(attention).mean(0))


def test_rollout_says_nothing_of_a_class() -> None:
    """The map of one class is that of the other, and the result says so; by gradients it is not."""
    evaluation = evaluate(vit(), image(1, 3, SIZE))
    maps = [attribute(evaluation, "attention-rollout", Target(k, "logit")) for k in (0, 1)]
    assert (maps[0].values == maps[1].values).all() and "the same for each class" in maps[0].notes[1]
    maps = [attribute(evaluation, "attention-rollout", Target(k, "logit"), {"variant": "gradient"}) for k in (0, 1)]
    assert (maps[0].values != maps[1].values).any() and len(maps[0].notes) == 1


class ByHand(nn.Module):
    """Tokens of a volume, a block of one's own, and the class token's or the mean's scores."""

    def __init__(self, block: Callable[[nn.Module, Tensor], Tensor], read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.patches, self.qkv, self.scores = nn.Conv3d(1, 12, 2, 2), nn.Linear(12, 36), nn.Linear(12, 2)
        self.mix, self.norm = nn.Linear(13, 13), nn.LayerNorm(12)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.block, self.read = block, read

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        return self.scores(self.read(self.block(self, tokens)))


def attend(m: nn.Module, x: Tensor, change: Callable[[Tensor], Tensor] = lambda weights: weights) -> Tensor:
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in m.qkv(m.norm(x)).chunk(3, -1))
    return (change((q @ k.mT).softmax(-1)) @ v).transpose(1, 2).flatten(2)


def fused(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
    return x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def values_first(m: nn.Module, x: Tensor) -> Tensor:
    """(values)ᵀ · (weights)ᵀ: the same attention, written the other way round."""
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in m.qkv(m.norm(x)).chunk(3, -1))
    return x + (v.mT @ (q @ k.mT).softmax(-1).mT).mT.transpose(1, 2).flatten(2)


def transposed(m: nn.Module, x: Tensor) -> Tensor:
    """Tokens that give instead of taking: not the weights' rows are what sums to 1."""
    return x + attend(m, x, lambda weights: weights.mT)


def with_grid(size: tuple[int, ...], block: Callable[..., Tensor], read: Callable[[Tensor], Tensor]) -> Evaluation:
    torch.manual_seed(1)
    return evaluate(make_lively(ByHand(block, read)), image(1, 3, size))


SMALL = (4, 6, 4)  # 2×3×2 patches


def first(x: Tensor) -> Tensor:
    return x[:, 0]


@pytest.mark.parametrize("block", [lambda m, x: x + attend(m, x), fused, values_first], ids=["matmul", "sdpa", "vT"])
def test_attention_is_found_however_it_is_written(block: Callable[..., Tensor]) -> None:
    evaluation = with_grid(SMALL, block, first)
    found = attribute(evaluation, "attention-rollout", TARGET)
    graph = evaluation.graph()
    (weights,) = (i for i, layer in enumerate(graph.layers) if isinstance(layer.operation, Softmax))
    row = evaluation.recording().outputs[weights][0].mean(0)
    row = (row if row.shape[0] == 13 else row[0])[0, 1:] / 2  # half is what passes by
    wanted = place_on_image(row.view(2, 3, 2), UnitPlacement((0.5,) * 3, (2.0,) * 3), SMALL)
    torch.testing.assert_close(torch.from_numpy(found.values[0]), wanted, rtol=0, atol=1e-12)


def test_the_mean_of_the_patches_alone_and_no_way_around() -> None:
    found = attribute(with_grid(SMALL, attend, lambda x: x[:, 1:].mean(1)), "attention-rollout", TARGET)
    assert "of the mean of all tokens" in found.notes[0] and "have no way around them" in found.notes[2]
    both = with_grid(SMALL, lambda m, x: x + attend(m, x), lambda x: x[:, 0] + x.mean(1))
    with pytest.raises(UsageError, match="the option readout, class-token or mean"):
        attribute(both, "attention-rollout", TARGET)
    maps = [attribute(both, "attention-rollout", TARGET, {"readout": how}).values for how in ("class-token", "mean")]
    assert (maps[0] != maps[1]).any()


REFUSED: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor], str]] = {
    "tokens mixed by a layer": (lambda m, x: m.mix((x + attend(m, x)).mT).mT, first, r"Dense.*mixes or regroups"),
    "weights changed": (lambda m, x: x + attend(m, x, lambda w: w * 0.5), first, "no attention"),
    "tokens that give": (transposed, first, "do not go to the sum of the values as they are"),
    "two side by side": (lambda m, x: x + attend(m, x) + attend(m, 2 * x), first, "stands beside"),
    "all tokens read": (lambda m, x: x + attend(m, x), lambda x: x.flatten(1)[:, :12], "mixes or regroups"),
    "two class tokens": (lambda m, x: attend(m, torch.cat([m.token, x], 1)), lambda x: x[:, 0] + x[:, 1], "several"),
    "read before": (lambda m, x: (y := x + attend(m, x)) + y.mean(1, True) + attend(m, y), first, "before the last"),
    "no attention": (lambda m, x: m.norm(x), first, "has no attention, and attention is what rollout follows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rolled_out_is_refused_by_name(name: str) -> None:
    block, read, reason = REFUSED[name]
    with pytest.raises(NetworkError, match=reason) as refused:
        attribute(with_grid(SMALL, block, read), "attention-rollout", TARGET)
    assert "Use grad-cam" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ClinicaDL Conv4_FC3", "The network has no attention"),
        ("swin3d_t", "within 18 windows of 18 tokens each"),
        ("mvit_v2_s", "its 257 queries and 65 keys are not the same tokens"),
        ("M3T's form", "its tokens are no grid of voxels"),
    ],
)
def test_networks_that_rollout_refuses(name: str, reason: str) -> None:
    covered = COVERED[name]
    leave_out_compiled_torchvision()
    for needed in {"torchvision": ["torchvision"], "MONAI": ["monai", "einops"]}.get(covered.source, []):
        pytest.importorskip(needed, reason="optional oracle: pip install torchvision monai einops")
    torch.manual_seed(0)
    evaluation = evaluate(make_lively(covered.narrow()), torch.randn(1, *covered.small, dtype=torch.float64))
    with pytest.raises(NetworkError, match=reason):
        attribute(evaluation, "attention-rollout", TARGET)


@pytest.mark.parametrize("method", ["grad-cam", "attention-rollout"])
def test_a_planted_patch_is_found(method: str) -> None:
    """The highest of 64 patches is the one that is bright, wherever it is planted."""
    network = OneBrightPatch().double().eval()
    for place in ((0, 0, 0), (3, 1, 2), (1, 3, 3)):
        x = 0.1 * torch.rand(1, 1, 16, 16, 16, dtype=torch.float64)
        low = [4 * p for p in place]
        box = tuple(slice(a, a + 4) for a in low)
        x[(0, 0, *box)] += 1
        found = attribute(evaluate(network, x), method, TARGET).values[0]
        highest = torch.from_numpy(found).flatten().argmax()
        where = [int(i) // 4 for i in torch.unravel_index(highest, (16, 16, 16))]
        assert where == list(place)
