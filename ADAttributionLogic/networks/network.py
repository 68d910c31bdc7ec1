"""A network that can be explained: its layers where they are known, and what is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ADAttributionLogic.errors import GridMismatchError, NetworkError, UnsupportedOperationError
from ADAttributionLogic.graph.layer_graph import Head, LayerGraph, Outputs, fold_batch_norm
from ADAttributionLogic.graph.tracing import shell_copy, trace


@dataclass(frozen=True, eq=False)
class Network:
    """A classifier of images.

    Attributes
    ----------
    input_shape : tuple of int
        Channels and spatial size.
    head : {"softmax", "sigmoid"}
        How logits become probabilities.
    graph : LayerGraph or None
        Its layers as traced, batch normalisation not folded; None when it could not be decomposed.
    module : nn.Module or None
        Without a graph: a batch of images to logits, differentiable, in evaluation mode.
    original : nn.Module or None
        The network itself, in evaluation mode, whose answer is compared with ours
        (:mod:`~ADAttributionLogic.networks.faithfulness`); None for networks of our own making.
    why_opaque : str
        Without a graph: the reason.
    class_count : int
    name : str
    outputs : {"logits", "probabilities"} or None
        What the user said that it returns.
    """

    input_shape: tuple[int, ...]
    head: Head
    class_count: int
    graph: LayerGraph | None = None
    module: nn.Module | None = field(default=None, repr=False)
    why_opaque: str = ""
    name: str = "network"
    original: nn.Module | None = field(default=None, repr=False)
    outputs: Outputs | None = None

    @property
    def folded(self) -> LayerGraph:
        """The layers, with batch normalisation folded where it can be.

        Raises
        ------
        NetworkError
            The layers are not known.
        """
        return fold_batch_norm(self.layers)

    @property
    def layers(self) -> LayerGraph:
        """The layers as traced.

        Raises
        ------
        NetworkError
            The layers are not known.
        """
        if self.graph is None:
            raise NetworkError(
                f"The layers of {self.name} are not known ({self.why_opaque}), so that only the gradient methods "
                "without guided backpropagation, and occlusion, can explain it."
            )
        return self.graph


def explainable(
    network: nn.Module,
    input_shape: Sequence[int],
    *,
    allow_opaque: bool = False,
    name: str = "",
    outputs: Outputs | None = None,
    is_ours: bool = False,
) -> Network:
    """Make any PyTorch module explainable.

    Parameters
    ----------
    network : nn.Module
        Batch (N, C, …) to class scores (N, K): logits, or probabilities if it ends with softmax or sigmoid. It is
        only read.
    input_shape : sequence of int
        Channels and spatial size; 1D, 2D or 3D.
    allow_opaque : bool
        Accept operations without a rule: then only gradient methods and occlusion work.
    name : str
    outputs : {"logits", "probabilities"}, optional
        What it returns, where that cannot be seen.
    is_ours : bool
        Whether it is an architecture of this package, whose layers are compared with it in the tests, not in each use.

    Raises
    ------
    UnsupportedOperationError, GridMismatchError, NetworkError
    """
    name = name or type(network).__name__
    try:
        graph = trace(network, input_shape, outputs)
    except UnsupportedOperationError as cause:
        if not allow_opaque:
            raise
        return opaque(network, input_shape, str(cause), outputs=outputs, name=name)
    original = None if is_ours else shell_copy(network).eval()
    count = max(graph.layers[-1].shape[0], 2)
    return Network(graph.input_shape, graph.head, count, graph, name=name, original=original, outputs=outputs)


class LogitsOf(nn.Module):
    """A module whose outputs are turned into logits.

    Parameters
    ----------
    module : nn.Module
    gives_probabilities : bool
        Whether its outputs are probabilities; their logarithm (or log-odds) then stands for the logits.
    """

    def __init__(self, module: nn.Module, gives_probabilities: bool) -> None:
        super().__init__()
        self.module = module
        self.gives_probabilities = gives_probabilities

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        values: Tensor = self.module(x)
        if not self.gives_probabilities:
            return values
        tiny = float(torch.finfo(torch.float32).tiny)
        return torch.log(values.clamp_min(tiny)) if values.shape[1] > 1 else torch.logit(values, eps=1e-7)


def opaque(
    module: nn.Module, input_shape: Sequence[int], why: str, *, outputs: Outputs | None = None, name: str = "network"
) -> Network:
    """Make a network of which only the outputs are known.

    Parameters
    ----------
    module : nn.Module
        Differentiable; batch of images to class scores (N, K).
    input_shape : sequence of int
    why : str
        Why its layers are not known.
    outputs : {"logits", "probabilities"}, optional
        What the scores are. Without a word, several are taken for logits, unless an image shows otherwise; a single
        one is refused.

    Raises
    ------
    GridMismatchError, NetworkError
    """
    shell = shell_copy(module).eval()
    shape = "×".join(map(str, input_shape))
    like = next((t for t in (*shell.parameters(), *shell.buffers()) if t.is_floating_point()), torch.zeros(()))
    try:
        with torch.no_grad():
            scores = shell(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
    except RuntimeError as cause:
        raise GridMismatchError(
            f"{name} cannot take an image of {shape} (channels×voxels): {str(cause).splitlines()[-1]}"
        ) from cause
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[0] != 1:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise NetworkError(f"{name} must return class scores (N, K), but returns {found} for one image.")
    count = scores.shape[1]
    if count == 1 and outputs is None:
        raise NetworkError(
            f"{name} returns a single number, whose meaning cannot be seen because its layers are not known ({why}). "
            "Say what it returns: outputs='logits' or 'probabilities' (--outputs on the command line)."
        )
    head: Head = "sigmoid" if count == 1 else "softmax"
    logits = LogitsOf(shell, outputs == "probabilities")
    return Network(tuple(input_shape), head, max(count, 2), None, logits, why, name, shell, outputs)
