"""The operations that a network read from a file may consist of.

A network file is a small program. Only operations on this list are ever run: pure functions of tensors and numbers,
none of which reads or writes files or memory that is not theirs.
"""

from __future__ import annotations

#: ATen operations, without their overload; a trailing underscore (in place) is allowed for each.
ALLOWED_OPERATIONS = frozenset(
    """
    abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d add addmm alias alpha_dropout amax amin arange argmax avg_pool1d avg_pool2d avg_pool3d
    baddbmm batch_norm bmm cat celu chunk clamp clamp_max clamp_min clone concat concatenate constant_pad_nd
    contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d _convolution convolution copy
    cos cumsum detach div dropout einsum elu embedding eq exp expand expand_as expm1 feature_dropout fill flatten
    flip floor_divide fmod full full_like ge gelu glu group_norm gt hardsigmoid hardswish hardtanh index
    index_select instance_norm layer_norm le leaky_relu lift_fresh_copy linalg_vector_norm linear log log1p log2
    log_sigmoid _log_softmax log_softmax logical_and logical_not logical_or logsumexp lt masked_fill matmul max
    max_pool1d max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum mean min minimum mish
    mm movedim mul narrow native_batch_norm _native_batch_norm_legit_no_training native_group_norm native_layer_norm
    ne neg new_full new_ones new_zeros norm ones ones_like outer pad permute pixel_shuffle pow prelu reciprocal
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat replication_pad1d
    replication_pad2d replication_pad3d reshape rms_norm roll rrelu rsqrt rsub _safe_softmax scalar_tensor
    scaled_dot_product_attention select selu sigmoid silu sin slice slice_scatter _softmax softmax softplus softsign
    split split_with_sizes sqrt square squeeze stack std std_mean sub sum swapaxes t tanh tensor_split threshold
    tile to _to_copy transpose tril triu unbind unflatten unsafe_chunk unsafe_split _unsafe_view unsqueeze
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d var var_mean view view_as where zeros zeros_like
    """.split()
)


def is_allowed(operation: str) -> bool:
    """Whether an ATen operation, by its name without namespace and overload, may be run from a file."""
    return operation in ALLOWED_OPERATIONS or operation.removesuffix("_") in ALLOWED_OPERATIONS
