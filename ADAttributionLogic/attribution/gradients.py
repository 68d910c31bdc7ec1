"""Methods that differentiate: sensitivity, gradient × input, guided backpropagation and their relatives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import GradientRule
from ADAttributionLogic.attribution.fill import BLUR
from ADAttributionLogic.attribution.reference_image import baseline_option, reference_image
from ADAttributionLogic.attribution.registry import Job, MapResult, Method
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph.activations import ReLU
from ADAttributionLogic.graph.operations import Activation
from ADAttributionLogic.graph.recording import walk_back
from ADAttributionLogic.method_options import Option

_POSTPROCESS = Option(
    "postprocess",
    "abs",
    "abs: its magnitude; square: its square (Montavon et al. 2018); signed: as it is",
    str,
    ("abs", "square", "signed"),
)


def _postprocess(gradient: Tensor, how: object) -> Tensor:
    if how == "abs":
        return gradient.abs()
    return gradient.square() if how == "square" else gradient


def _sensitivity(job: Job) -> MapResult:
    gradient, _ = job.evaluation.gradient(job.evaluation.image, job.decision.gradient_at_logits)
    return MapResult(_postprocess(gradient[0], job.options["postprocess"]))


def _gradient_times_input(job: Job) -> MapResult:
    gradient, _ = job.evaluation.gradient(job.evaluation.image, job.decision.gradient_at_logits)
    return MapResult((gradient * job.evaluation.image)[0])


def _guided_backprop(job: Job) -> MapResult:
    recording = job.evaluation.recording()
    activations = [x.operation for x in recording.graph.layers if isinstance(x.operation, Activation)]
    rectifiers = [x for x in activations if x.is_rectifier]
    if not rectifiers:
        raise NetworkError("Guided backpropagation needs ReLUs, but the network has none; use sensitivity instead.")
    seed = job.decision.gradient_at_logits(recording.logits)
    gradient = walk_back(recording, seed, GradientRule(guided=True), check=job.monitor.check)
    return MapResult(_postprocess(gradient[0], job.options["postprocess"]), notes=_guided_definition(activations))


def _guided_definition(activations: Sequence[Activation]) -> tuple[str, ...]:
    """What guided backpropagation means in a network with other activations than plain ReLUs."""
    dropping, passing = (sorted({_name(x) for x in activations if x.is_rectifier is kind}) for kind in (True, False))
    if dropping == ["ReLU"] and not passing:
        return ()
    text = (
        f"Guided backpropagation as for ReLUs: negative gradients are dropped at the input of every {_listed(dropping)}"
    )
    return (f"{text}, but pass through every {_listed(passing)}." if passing else f"{text}.",)


def _name(activation: Activation) -> str:
    if isinstance(activation, ReLU) and math.isfinite(activation.cap):
        return f"ReLU{activation.cap:g}"
    return type(activation).__name__


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _integrated_gradients(job: Job) -> MapResult:
    evaluation, steps = job.evaluation, int(job.options["steps"])
    image = evaluation.image
    baseline = reference_image(job, "integrated-gradients").expand_as(image).contiguous()
    # Gauss-Legendre nodes and weights on 0…1: far fewer steps than with equal steps for the same error.
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(image)
    for number, (node, weight) in enumerate(zip(nodes, weights, strict=True)):
        job.monitor.report(number / steps, f"integrated gradients, step {number + 1} of {steps}")
        point = torch.lerp(baseline, image, (float(node) + 1) / 2)
        gradient, _ = evaluation.gradient(point, job.decision.gradient_at_logits)
        total += gradient * (float(weight) / 2)
    difference = job.decision.score - float(job.decision.score_of(evaluation.logits_of(baseline))[0])
    return MapResult((total * (image - baseline))[0], to_attribute=difference)


def _smoothgrad(job: Job) -> MapResult:
    evaluation, samples = job.evaluation, int(job.options["samples"])
    image = evaluation.image
    deviation = float(job.options["noise"]) * float(image.max() - image.min())
    generator = torch.Generator().manual_seed(int(job.options["seed"]))
    squares = job.options["postprocess"] == "square"
    total = torch.zeros_like(image)
    for number in range(samples):
        job.monitor.report(number / samples, f"SmoothGrad, sample {number + 1} of {samples}")
        # Drawn on the CPU, so that every device sees the same noise.
        noise = torch.randn(image.shape, generator=generator, dtype=image.dtype).to(image.device)
        gradient, _ = evaluation.gradient(image + deviation * noise, job.decision.gradient_at_logits)
        total += gradient.square() if squares else gradient
    mean = total / samples
    return MapResult(mean[0] if squares else _postprocess(mean[0], job.options["postprocess"]))


METHODS = (
    Method(
        "sensitivity",
        "Sensitivity analysis",
        "How much would the decision change if this voxel changed a little?",
        "Simonyan et al. 2014, arXiv:1312.6034",
        _sensitivity,
        (_POSTPROCESS,),
        is_signed=False,
    ),
    Method(
        "gradient-x-input",
        "Gradient × input",
        "How much does this voxel, by its value, push the decision to first order?",
        "Shrikumar et al. 2017, arXiv:1704.02685",
        _gradient_times_input,
    ),
    Method(
        "guided-backprop",
        "Guided backpropagation",
        "Which voxels would raise the features that speak for the decision?",
        "Springenberg et al. 2015, arXiv:1412.6806",
        _guided_backprop,
        (_POSTPROCESS,),
        is_signed=False,
        needs_layers=True,
    ),
    Method(
        "integrated-gradients",
        "Integrated gradients",
        "How much did each voxel contribute on the way from an empty (or a reference) image to this one?",
        "Sundararajan et al. 2017, arXiv:1703.01365",
        _integrated_gradients,
        (
            Option("steps", 32, "points of the Gauss-Legendre quadrature", int, minimum=2, maximum=1000),
            baseline_option("zero"),
            BLUR,
        ),
        is_conserving=True,
    ),
    Method(
        "smoothgrad",
        "SmoothGrad",
        "Sensitivity, averaged over noisy copies of the scan.",
        "Smilkov et al. 2017, arXiv:1706.03825; square: Hooker et al. 2019, arXiv:1806.10758",
        _smoothgrad,
        (
            Option("samples", 16, "noisy copies", int, minimum=1, maximum=10_000),
            Option(
                "noise",
                0.1,
                "standard deviation of the noise, as a fraction of the image's range",
                float,
                minimum=0,
                maximum=10,
            ),
            Option("seed", 0, "of the noise", int, minimum=0, maximum=2**31),
            _POSTPROCESS,
        ),
        is_signed=False,
    ),
)
