"""Attention rollout: which tokens reached the answer, by attention alone. A baseline for transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import GradientRule
from ADAttributionLogic.attribution.registry import Job, MapResult, Method
from ADAttributionLogic.errors import NetworkError, UsageError
from ADAttributionLogic.graph.receptive_field import place_on_image
from ADAttributionLogic.graph.recording import walk_back
from ADAttributionLogic.graph.self_attention import AttentionLayer, Readout, SelfAttention, find_self_attention
from ADAttributionLogic.method_options import Option

_FUSED: Mapping[str, Callable[[Tensor, int], Tensor]] = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}


def _rollout(job: Job) -> MapResult:
    graph = job.evaluation.graph()
    attention = find_self_attention(graph)
    readout = _chosen_readout(attention, str(job.options["readout"]))
    recording = job.evaluation.recording()
    by_gradient = job.options["variant"] == "gradient"
    gradients = _gradients(job, attention) if by_gradient else {}
    reached = job.evaluation.image.new_tensor(attention.readouts[readout])
    for layer in reversed(attention.layers):
        job.monitor.check()
        weights = _by_head(recording.outputs[layer.weights], layer)
        if by_gradient:
            gradient = _by_head(gradients[graph.layers[layer.weights].name], layer)
            past = reached if layer.has_way_around else 0
            reached = past + reached @ (weights * gradient).clamp(min=0).mean(0)
        else:
            reached = reached @ _with_residual(weights, layer, job.options)
    units = attention.grid.maps(reached)[0]
    _check_that_it_varies(units)
    values = place_on_image(units, attention.grid.placement, tuple(job.evaluation.image.shape[2:]))
    return MapResult(values[None], notes=_notes(job, attention, readout, units))


def _by_head(values: Tensor, layer: AttentionLayer) -> Tensor:
    """Weights or their gradients as (heads, queries, keys)."""
    moved = values.movedim((layer.queries, layer.keys), (-2, -1))
    return moved.reshape(-1, *moved.shape[-2:])


def _with_residual(weights: Tensor, layer: AttentionLayer, options: Mapping[str, Any]) -> Tensor:
    """One matrix of all heads, without its lowest entries, and with what passes by; each row sums to 1."""
    fused = _FUSED[str(options["heads"])](weights, 0)
    dropped = int(fused.numel() * float(options["discard"]))
    if dropped:
        lowest = fused.flatten().topk(dropped, largest=False).indices
        fused = fused.flatten().index_fill(0, lowest, 0.0).view_as(fused)
    share = float(options["residual"]) if layer.has_way_around else 0.0
    whole = share * torch.eye(len(fused), dtype=fused.dtype, device=fused.device) + (1 - share) * fused
    rows: Tensor = whole / whole.sum(1, keepdim=True).clamp(min=torch.finfo(whole.dtype).tiny)
    return rows


def _gradients(job: Job, attention: SelfAttention) -> dict[str, Tensor]:
    """Gradient of what is explained with respect to each attention's weights."""
    recording = job.evaluation.recording()
    names = {recording.graph.layers[layer.weights].name for layer in attention.layers}
    found: dict[str, Tensor] = {}

    def keep(name: str, gradient: Tensor) -> None:
        if name in names:
            found[name] = gradient

    seed = job.decision.gradient_at_logits(recording.logits)
    walk_back(recording, seed, GradientRule(), observe=keep, check=job.monitor.check)
    return found


def _chosen_readout(attention: SelfAttention, wanted: str) -> Readout:
    ways = list(attention.readouts)
    for way in ways:
        if way == wanted or (wanted == "auto" and len(ways) == 1):
            return way
    if wanted == "auto":
        raise UsageError(
            "The network reads its answer from a class token and from the mean of tokens. Say which of both is to be "
            "rolled out: the option readout, class-token or mean."
        )
    raise UsageError(f"The network reads its answer from the {ways[0]}, not from the {wanted}: leave readout at auto.")


def _check_that_it_varies(units: Tensor) -> None:
    low, high = float(units.min()), float(units.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        size = "×".join(map(str, units.shape))
        raise NetworkError(
            f"Attention rollout is constant: {high:g} at all of the {size} tokens, which says nothing about places. "
            "Choose another method."
        )


def _notes(job: Job, attention: SelfAttention, readout: Readout, units: Tensor) -> tuple[str, ...]:
    size = "×".join(map(str, units.shape))
    step = "×".join(f"{s:g}" for s in attention.grid.placement.step)
    what = "the class token" if readout == "class-token" else "the mean of all tokens"
    notes = [
        f"Attention of {what} through {len(attention.layers)} layers to {size} tokens, {step} voxels apart, "
        "interpolated to the image."
    ]
    if job.options["variant"] == "rollout":
        notes.append("Attention rollout follows attention alone: it is the same for each class and says no sign.")
    without = sum(not layer.has_way_around for layer in attention.layers)
    if without:
        notes.append(f"{without} of these layers have no way around them (no residual connection), and get none here.")
    return tuple(notes)


def _settle(options: Mapping[str, Any]) -> dict[str, Any]:
    """By gradients, heads are averaged and nothing else is chosen."""
    if options["variant"] == "gradient":
        return {name: value for name, value in options.items() if name in ("variant", "readout")}
    return dict(options)


METHODS = (
    Method(
        "attention-rollout",
        "Attention rollout",
        "Which patches reached the answer by attention? (coarse; of any class; transformers only)",
        "Abnar & Zuidema 2020, arXiv:2005.00928; Chefer et al. 2021, arXiv:2103.15679",
        _rollout,
        (
            Option(
                "variant",
                "rollout",
                "rollout: attention alone; gradient: only attention that raises what is explained, by its gradient "
                "(Chefer)",
                str,
                ("rollout", "gradient"),
            ),
            Option("heads", "mean", "how the heads of a layer become one", str, ("mean", "max", "min")),
            Option("discard", 0.0, "share of a layer's weights, the lowest, set to 0", float, minimum=0, maximum=1),
            Option("residual", 0.5, "share of what passes each attention by", float, minimum=0, maximum=1),
            Option(
                "readout",
                "auto",
                "whose attention: the class token's, or all tokens' in the mean; auto: what the answer is read from",
                str,
                ("auto", "class-token", "mean"),
            ),
        ),
        is_signed=False,
        needs_layers=True,
        needs_attention=True,
        settle=_settle,
    ),
)
