"""A network that can be explained: its layers where they are known, and what is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ADAttributionLogic.architectures.output_kind import OutputKind
from ADAttributionLogic.errors import GridMismatchError, NetworkError, UnsupportedOperationError
from ADAttributionLogic.graph.layer_graph import Head, LayerGraph, fold_batch_norm
from ADAttributionLogic.networks.output import head_of
from ADAttributionLogic.tracing.tracer import shell_copy, trace


@dataclass(frozen=True, eq=False)
class Network:
    """A network that takes images: a classifier, or one whose output is a score.

    Attributes
    ----------
    input_shape : tuple of int
        Channels and spatial size.
    head : {"softmax", "sigmoid", "score"}
        What the logits are.
    graph : LayerGraph or None
        Its layers as traced, batch normalisation not folded; None when it could not be decomposed.
    module : nn.Module or None
        Without a graph: a batch of images to logits, differentiable, in evaluation mode.
    why_opaque : str
        Without a graph: the reason.
    class_count : int
        1 for a score.
    name : str
    original : nn.Module or None
        The network itself, in evaluation mode, whose answer is compared with ours
        (:mod:`~ADAttributionLogic.networks.faithfulness`); None for networks of our own making.
    gives_probabilities : bool
        Whether the user said that it returns probabilities.
    """

    input_shape: tuple[int, ...]
    head: Head
    class_count: int
    graph: LayerGraph | None = None
    module: nn.Module | None = field(default=None, repr=False)
    why_opaque: str = ""
    name: str = "network"
    original: nn.Module | None = field(default=None, repr=False)
    gives_probabilities: bool = False

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
    output: OutputKind | None = None,
    gives_probabilities: bool = False,
    allow_opaque: bool = False,
    name: str = "",
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
    output : {"softmax", "sigmoid", "score"}, optional
        What its outputs are; needed for a single one that is not the network's own sigmoid.
    gives_probabilities : bool
        Whether it returns probabilities, where that cannot be seen: their logarithm then stands for the logits.
    allow_opaque : bool
        Accept operations without a rule: then only gradient methods and occlusion work.
    name : str
    is_ours : bool
        Whether it is an architecture of this package, whose layers are compared with it in the tests, not in each use.

    Raises
    ------
    UnsupportedOperationError, GridMismatchError, NetworkError
    """
    name = name or type(network).__name__
    try:
        graph = trace(network, input_shape, output, gives_probabilities)
    except UnsupportedOperationError as cause:
        if not allow_opaque:
            raise
        return opaque(
            network, input_shape, str(cause), gives_probabilities=gives_probabilities, output=output, name=name
        )
    made = from_graph(graph, name, output)
    original = None if is_ours else shell_copy(network).eval()
    return replace(made, original=original, gives_probabilities=gives_probabilities)


def from_graph(graph: LayerGraph, name: str, output: OutputKind | None = None) -> Network:
    """Make a network of traced layers, whose outputs are declared where the layers do not say what they are.

    Raises
    ------
    NetworkError
        See :func:`~.output.head_of`.
    """
    outputs = graph.layers[-1].shape[0]
    head = head_of(outputs, None if graph.returns == "logits" else graph.head, output, name)
    return Network(graph.input_shape, head, _class_count(outputs, head), replace(graph, head=head), name=name)


def _class_count(outputs: int, head: Head) -> int:
    return 2 if head == "sigmoid" else outputs


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
        values: Tensor = self.module(x.clone())  # which it may write into
        if not self.gives_probabilities:
            return values
        tiny = float(torch.finfo(torch.float32).tiny)
        return torch.log(values.clamp_min(tiny)) if values.shape[1] > 1 else torch.logit(values, eps=1e-7)


def opaque(
    module: nn.Module,
    input_shape: Sequence[int],
    why: str,
    *,
    gives_probabilities: bool = False,
    output: OutputKind | None = None,
    name: str = "network",
) -> Network:
    """Make a network of which only the outputs are known.

    Parameters
    ----------
    module : nn.Module
        Differentiable; batch of images to class scores (N, K).
    input_shape : sequence of int
    why : str
        Why its layers are not known.
    gives_probabilities : bool
        Whether the scores are probabilities.
    output : {"softmax", "sigmoid", "score"}, optional
        What the outputs are; needed for a single one that is no probability.

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
    outputs = scores.shape[1]
    # Whoever says that a single output is a probability says that it is a sigmoid's.
    traced: Head | None = ("sigmoid" if outputs == 1 else "softmax") if gives_probabilities else None
    head = head_of(outputs, traced, output, name)
    logits = LogitsOf(shell, gives_probabilities)
    count = _class_count(outputs, head)
    return Network(tuple(input_shape), head, count, None, logits, why, name, shell, gives_probabilities)
