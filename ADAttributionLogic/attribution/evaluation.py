"""One image and one network on one device: what all methods start from, computed once and shared by them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ADAttributionLogic.attribution.target import Decision, Target, decide
from ADAttributionLogic.errors import GridMismatchError
from ADAttributionLogic.graph.arithmetic import Product
from ADAttributionLogic.graph.attention import MatrixProduct
from ADAttributionLogic.graph.layer_graph import LayerGraph, fold_batch_norm
from ADAttributionLogic.graph.normalisations import Normalisation, Variance
from ADAttributionLogic.graph.operations import Activation, Softmax, WeightedOperation
from ADAttributionLogic.graph.recording import BackwardRule, Recording, record, walk_back
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.faithfulness import require_same_answer
from ADAttributionLogic.networks.network import Network


class Evaluation:
    """An image on its way through a network.

    Parameters
    ----------
    network : Network
    image : Tensor, shape (1, C, …)
        Moved to `device`; float32, or float64 for tests.
    device : torch.device
    monitor : Monitor, optional
        Checked for cancellation between layers.
    """

    def __init__(self, network: Network, image: Tensor, device: torch.device, monitor: Monitor | None = None) -> None:
        if image.shape[0] != 1 or tuple(image.shape[1:]) != network.input_shape:
            needed, given = ("×".join(map(str, s)) for s in ((1, *network.input_shape), image.shape))
            raise GridMismatchError(
                f"{network.name} takes one image of {needed} (batch×channels×voxels), but got {given}."
            )
        self.network = network
        self.device = device
        self.image = image.to(device)
        self.monitor = monitor or Monitor()
        self._graphs: dict[bool, LayerGraph] = {}
        self._recordings: dict[bool, Recording] = {}
        self._module: nn.Module | None = None
        self._logits: Tensor | None = None

    # -------------------------------------------------------------------------------------------------- the decision

    @property
    def is_opaque(self) -> bool:
        """Whether only the network's outputs are known, not its layers."""
        return self.network.graph is None

    @property
    def logits(self) -> Tensor:
        """The network's logits for the image (1, K); the network itself was asked whether it agrees."""
        if self._logits is None:
            logits = self.logits_of(self.image) if self.is_opaque else self.recording().logits
            require_same_answer(self.network, self.image, logits)
            self._logits = logits
        return self._logits

    def decision(self, target: Target) -> Decision:
        """Resolve what is explained."""
        return decide(self.logits, self.network.head, target, self.network.class_count)

    def logits_of(self, images: Tensor) -> Tensor:
        """Run the network on other images (N, C, …) without keeping anything; (N, K)."""
        with torch.no_grad():
            return self.graph().logits(images) if not self.is_opaque else self.module()(images)

    # ------------------------------------------------------------------------------------------------- looking inside

    def graph(self, folded: bool = True) -> LayerGraph:
        """The network's layers on the device, in the image's dtype."""
        if folded not in self._graphs:
            graph = fold_batch_norm(self.network.layers) if folded else self.network.layers
            self._graphs[folded] = graph.to(self.device, self.image.dtype)
        return self._graphs[folded]

    def recording(self, folded: bool = True) -> Recording:
        """The recorded forward pass of the image."""
        if folded not in self._recordings:
            self._recordings[folded] = record(self.graph(folded), self.image, check=self.monitor.check)
        return self._recordings[folded]

    def forget_recordings(self) -> None:
        """Free the memory of recorded passes; the logits stay known."""
        self._recordings.clear()

    def module(self) -> nn.Module:
        """An opaque network on the device; the user's own is copied if it is elsewhere."""
        if self._module is None:
            module = self.network.module
            assert module is not None
            places = {t.device for t in _tensors(module)}
            self._module = module if places <= {self.device} else copy.deepcopy(module).to(self.device)
        return self._module

    # ------------------------------------------------------------------------------------------------------ gradients

    def gradient(self, images: Tensor, seed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Gradient at the input.

        Parameters
        ----------
        images : Tensor, shape (N, C, …)
        seed : callable
            Logits (N, K) → derivative of the explained quantity with respect to them (N, K).

        Returns
        -------
        gradient : Tensor, shape (N, C, …)
        logits : Tensor, shape (N, K)
        """
        if not self.is_opaque:
            recording = (
                self.recording() if images is self.image else record(self.graph(), images, check=self.monitor.check)
            )
            gradient = walk_back(recording, seed(recording.logits), GradientRule(), check=self.monitor.check)
            return gradient, recording.logits
        with torch.enable_grad():
            x = images.detach().clone().requires_grad_(True)
            logits = self.module()(x)
            (gradient,) = torch.autograd.grad(logits, x, seed(logits.detach()))
        return gradient, logits.detach()


class GradientRule(BackwardRule):
    """The chain rule.

    Parameters
    ----------
    guided : bool
        Let no negative gradient through a ReLU or one of its relatives (guided backpropagation).
    """

    def __init__(self, guided: bool = False) -> None:
        self.guided = guided
        self.is_linear = not guided

    def through_activation(self, operation: Activation, relevance: Tensor, output: Tensor) -> Tensor:
        gradient = relevance * operation.derivative(output)
        return gradient.clamp_(min=0) if self.guided and operation.is_rectifier else gradient

    def through_softmax(self, layer: int, operation: Softmax, x: Tensor, relevance: Tensor, output: Tensor) -> Tensor:
        return operation.gradient(relevance, (output,), output)[0]

    def through_weighted(
        self,
        layer: int,
        operation: WeightedOperation,
        inputs: tuple[Tensor, ...],
        relevance: Tensor,
        output: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return operation.transpose(relevance, operation.weight, tuple(x.shape for x in inputs))

    def through_product(
        self,
        layer: int,
        operation: Product | MatrixProduct,
        inputs: tuple[Tensor, ...],
        relevance: Tensor,
        output: Tensor,
    ) -> tuple[Tensor, ...]:
        return operation.gradient(relevance, inputs, output)

    def through_normalisation(
        self, layer: int, operation: Normalisation, inputs: tuple[Tensor, ...], relevance: Tensor
    ) -> tuple[Tensor, ...]:
        return operation.gradient(relevance, inputs, relevance)

    def through_variance(self, layer: int, operation: Variance, x: Tensor, relevance: Tensor, output: Tensor) -> Tensor:
        return operation.gradient(relevance, (x,), output)[0]


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
