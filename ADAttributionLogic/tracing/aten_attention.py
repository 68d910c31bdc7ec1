"""ATen operations of attention: dense layers on tokens, products of matrices, softmax over scores, and masks.

Attention is taken apart into its products and its softmax, so that the graph computes it itself, on every device with
the same operations: PyTorch's fused kernels (flash, memory-efficient) differ from device to device and hide the
attention that LRP and rollout need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ADAttributionLogic.graph import operations as ops
from ADAttributionLogic.graph.arithmetic import PlacewiseAffine
from ADAttributionLogic.graph.attention import DenseByGroup, MatrixProduct
from ADAttributionLogic.tracing.arguments import Arguments, Conversion, Converter, Wired, coefficient


def _linear(a: Arguments) -> ops.Operation:
    return ops.Dense(a.constant("weight"), None if a["bias"] is None else a.constant("bias"))


def _addmm(a: Arguments) -> Conversion:
    if a["beta"] != 1 or a["alpha"] != 1:
        raise a.unsupported("Its factors beta and alpha must be 1.")
    if "self" in a.dynamic or a.dynamic == {"mat2"}:
        raise a.unsupported("Only its first matrix may depend on the image.")
    if "mat2" in a.dynamic:
        shape = a.output_shape[1:]
        bias = PlacewiseAffine(coefficient(1.0), a.constant("self"))
        return (Wired(MatrixProduct(), (0, 1), shape), Wired(bias, (2,), shape))
    return ops.Dense(a.constant("mat2").T, a.constant("self"))


def _matrix_product(a: Arguments) -> Conversion:
    left, right = [name for name in a.values if name in ("self", "other", "mat2")]
    if {left, right} <= a.dynamic:
        shapes = tuple(a[left]), tuple(a[right])
        if min(map(len, shapes)) < 3:
            raise a.unsupported(f"Both its factors depend on the image and one is a vector: {shapes[0]}, {shapes[1]}.")
        return MatrixProduct()
    if left in a.dynamic:
        weight = a.constant(right)
        if weight.ndim > 1:
            return _by_constant(weight)
        shape = (*a.output_shape[1:], 1)
        return ((ops.Dense(weight[None], None), shape), (ops.Reshape(shape[:-1]), shape[:-1]))
    shape, result = tuple(a[right]), a.output_shape
    if len(shape) < 3 or a.constant(left).ndim < 2:
        raise a.unsupported("A vector is multiplied with it from the left.")
    return (
        (_swapped(len(shape)), (*shape[1:-2], shape[-1], shape[-2])),
        (_by_constant(a.constant(left).mT), (*result[1:-2], result[-1], result[-2])),
        (_swapped(len(result)), result[1:]),
    )


def _by_constant(weight: Tensor) -> ops.WeightedOperation:
    """``x @ weight``."""
    while weight.ndim > 2 and weight.shape[0] == 1:
        weight = weight[0]
    return ops.Dense(weight.T, None) if weight.ndim == 2 else DenseByGroup(weight, None)


def _swapped(axes: int) -> ops.Permute:
    """The exchange of the last two axes."""
    return ops.Permute((*range(axes - 2), axes - 1, axes - 2))


def _attention(a: Arguments) -> Conversion:
    """Scaled dot-product attention: ``softmax(query · keyᵀ · scale + mask) · value``."""
    if a["dropout_p"]:
        raise a.unsupported(
            f"It drops attention at random (dropout_p={a['dropout_p']:g}) although the network is in evaluation mode; "
            "pass dropout_p=0.0 there."
        )
    if a.values.get("enable_gqa"):
        raise a.unsupported("Its query has more heads than its key (enable_gqa); repeat the key's heads instead.")
    if not a.dynamic >= {"query", "key", "value"} or "attn_mask" in a.dynamic:
        raise a.unsupported("Its query, key and value must all depend on the image, and its mask must not.")
    query, key = tuple(a["query"]), tuple(a["key"])
    turned = (*key[1:-2], key[-1], key[-2])
    scores = (*a.output_shape[1:-1], key[-2])
    scale = 1 / math.sqrt(query[-1]) if a.values.get("scale") is None else float(a["scale"])
    made = [
        Wired(_swapped(len(key)), (1,), turned),
        Wired(MatrixProduct(), (0, 3), scores),
        Wired(ops.Affine(coefficient(scale), None), (4,), scores),
    ]
    mask = _mask(a, query[-2], key[-2])
    is_empty = False
    if mask is not None:
        made.append(Wired(PlacewiseAffine(coefficient(1.0), mask), (5,), scores))
        is_empty = bool(torch.isneginf(mask).all(-1).any())
    softmax = ops.Softmax(len(scores), is_zero_where_all_is_masked=is_empty)
    made.append(Wired(softmax, (len(made) + 2,), scores))
    made.append(Wired(MatrixProduct(), (len(made) + 2, 2), a.output_shape[1:]))
    return tuple(made)


def _mask(a: Arguments, queries: int, keys: int) -> Tensor | None:
    """What is added to the scores."""
    allowed = torch.ones(queries, keys, dtype=torch.bool).tril() if a["is_causal"] else None
    mask = None if a["attn_mask"] is None else a.constant("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        allowed, mask = mask, None
    if allowed is not None:
        mask = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed.cpu(), -math.inf)
    return mask if mask is None or bool(mask.any()) else None


def _where(a: Arguments) -> Conversion:
    """A constant at places that do not depend on the image (masks), the layer at the others."""
    if "condition" in a.dynamic:
        raise a.unsupported("Which elements it takes depends on voxel values.")
    if {"self", "other"} <= a.dynamic:
        raise a.unsupported("It chooses between two layers.")
    is_first = "self" in a.dynamic
    kept = a.constant("condition") if is_first else ~a.constant("condition")
    value = a.constant("other" if is_first else "self")
    if tuple(a["self" if is_first else "other"]) != a.output_shape:
        raise a.unsupported("It repeats the layer's elements.")
    constant = torch.where(kept, torch.zeros((), dtype=torch.float64), value.to(torch.float64).to(kept.device))
    return PlacewiseAffine(kept.to(torch.float64), constant)


ATTENTION_CONVERTERS: Mapping[str, Converter] = {
    "aten.linear": _linear,
    "aten.addmm": _addmm,
    "aten.mm": _matrix_product,
    "aten.bmm": _matrix_product,
    "aten.matmul": _matrix_product,
    "aten.scaled_dot_product_attention": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten.where.self": _where,
}
