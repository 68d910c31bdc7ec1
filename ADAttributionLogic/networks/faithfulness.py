"""Whether the traced layers answer as the network itself does, on the image that is explained.

A trace can be wrong without a word: whatever Python computes in ``forward`` (random numbers of another library, a
counter, today's date) is frozen in it. So the network itself is run twice on the first image that is explained with it,
and its probabilities are compared with each other and with those of the layers. It costs two forward passes, once for
each network that is loaded; networks of this package's own making are compared in its tests instead.
"""

from __future__ import annotations

import copy
import weakref

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph.layer_graph import class_probabilities
from ADAttributionLogic.networks.network import Network

#: Largest difference of a probability, and of a logit relative to the largest one, that rounding (on a GPU, of TF32)
#: explains.
TOLERANCE = 1e-3

#: The same for the network's outputs from run to run, where only the order of sums may differ.
CHANGE = 1e-5

_compared: weakref.WeakSet[Network] = weakref.WeakSet()


def require_same_answer(network: Network, image: Tensor, logits: Tensor) -> None:
    """Compare the network's own answer with the logits of its layers; once for each network.

    Parameters
    ----------
    network : Network
    image : Tensor, shape (1, C, …)
    logits : Tensor, shape (1, K)
        Of the layers (of a network that is opaque: its own, as logits).

    Raises
    ------
    NetworkError
        The answer is NaN or infinite, differs from run to run or from that of the network's layers (if only because
        rounding decides it), or consists of probabilities that were taken for logits (or the reverse).
    """
    if not bool(torch.isfinite(logits).all()):
        raise NetworkError(
            f"{network.name} gave NaN or infinite outputs for this image ({_listed(logits)}); no map explains such an "
            "answer. Its weights are damaged, or values overflow on their way through it."
        )
    if network.original is None or network in _compared:
        return
    module = _on_device(network.original, image.device)
    first, second = (_scores(module, image) for _ in range(2))
    change = float((first - second).abs().max())
    if change > CHANGE * max(1.0, float(first.abs().max())):
        raise NetworkError(
            f"{network.name} answers differently each time: on the same image its outputs changed by {change:.3g} "
            f"({_listed(first)}, then {_listed(second)}), although it is in evaluation mode. Something random (numpy "
            "or random in forward) or a counter decides; make it deterministic."
        )
    _require_kind(network, first)
    theirs, ours, what = _comparable(network, first, logits)
    if not _are_equal(theirs, ours):
        in_double = _in_double(network, image)
        raise NetworkError(
            _differs(network, theirs, ours, what)
            if in_double is None
            else _hangs_on_rounding(network, theirs, ours, in_double, what)
        )
    _compared.add(network)


def _on_device(module: nn.Module, device: torch.device) -> nn.Module:
    places = {t.device for t in (*module.parameters(), *module.buffers())}
    return module if places <= {device} else copy.deepcopy(module).to(device)


@torch.no_grad()
def _scores(module: nn.Module, image: Tensor) -> Tensor:
    """The network's output as a row (1, K), float64."""
    floating = [t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    own = image.to(floating[0] if floating else image.dtype, copy=True)  # which it may write into
    (output,) = tree_leaves(module(own))  # out of a list or dictionary
    row: Tensor = output.reshape(1, -1).to(torch.float64)
    return row


def _require_kind(network: Network, scores: Tensor) -> None:
    count = scores.shape[1]
    total, low, high = float(scores.sum()), float(scores.min()), float(scores.max())
    sums_to_1 = low >= 0 and high <= 1 and (count == 1 or abs(total - 1) < 1e-4)
    returns = _returns(network)
    if returns == "probabilities" and not sums_to_1:
        raise NetworkError(
            f"{network.name} is said to return probabilities, but returns {_listed(scores)}, which are not between 0 "
            f"and 1 with the sum 1 (sum {total:.4g})."
        )
    if returns == "logits" and count > 1 and sums_to_1:
        raise NetworkError(
            f"The outputs of {network.name} ({_listed(scores)}) lie between 0 and 1 and sum to 1: they look like "
            "probabilities, but no softmax or sigmoid was found at its end, so that they would be taken for logits. "
            "Say so (gives_probabilities=True; --gives-probabilities on the command line), or let it return the logits."
        )


def _returns(network: Network) -> str:
    if network.graph is not None:
        return network.graph.returns
    return "probabilities" if network.gives_probabilities else "logits"


def _comparable(network: Network, scores: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, str]:
    """The network's scores and its layers' logits as what it returns: outputs, or probabilities of all classes."""
    logits, returns = logits.to(torch.float64), _returns(network)
    if returns == "logits":
        return scores, logits, "outputs"
    theirs = scores.exp() if returns == "log-probabilities" else scores
    if theirs.shape[1] == 1:
        theirs = torch.cat([1 - theirs, theirs], 1)
    return theirs, class_probabilities(logits, network.head), "probabilities"


def _are_equal(theirs: Tensor, ours: Tensor) -> bool:
    size = max(1.0, float(theirs.abs().max()))  # of probabilities 1
    return float((theirs - ours).abs().max()) <= TOLERANCE * size


def _in_double(network: Network, image: Tensor) -> Tensor | None:
    """What network and layers answer in double precision, where they agree; None where they do not, or cannot."""
    if network.graph is None or network.original is None:
        return None
    try:
        scores = _scores(copy.deepcopy(network.original).to(image.device).double(), image.double())
        with torch.no_grad():
            logits = network.folded.to(image.device, torch.float64).logits(image.double())
    except RuntimeError:  # a network that computes in single precision by itself
        return None
    theirs, ours, _ = _comparable(network, scores, logits)
    return theirs if _are_equal(theirs, ours) else None


def _differs(network: Network, theirs: Tensor, ours: Tensor, what: str) -> str:
    return (
        f"The layers that were traced from {network.name} do not answer as it does itself: its {what} for this image "
        f"are {_listed(theirs)}, theirs {_listed(ours)}. Something in its forward is not seen in a trace (a random or "
        "changing value that Python computes); no map of these layers would explain it."
    )


def _hangs_on_rounding(network: Network, theirs: Tensor, ours: Tensor, in_double: Tensor, what: str) -> str:
    return (
        f"Rounding decides what {network.name} answers: in single precision its {what} for this image are "
        f"{_listed(theirs)}, those of its traced layers {_listed(ours)}, and in double precision both are "
        f"{_listed(in_double)}. No map of such an answer means anything. Deep networks do this whose weights, or whose "
        "statistics of batch normalisation, were not trained or not loaded."
    )


def _listed(values: Tensor) -> str:
    shown = [f"{float(v):.4g}" for v in values.flatten()[:4]]
    return ", ".join(shown) + (" …" if values.numel() > 4 else "")
