"""Grad-CAM and HiResCAM in any dimension, placed where the units of the feature map look."""

from __future__ import annotations

from ADAttributionLogic.attribution.evaluation import GradientRule
from ADAttributionLogic.attribution.registry import Job, MapResult, Method, register
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.graph.layer_graph import LayerGraph
from ADAttributionLogic.graph.operations import Activation, AdaptiveAveragePool, Affine, Convolution, Reshape
from ADAttributionLogic.graph.receptive_field import place_on_image, unit_placement
from ADAttributionLogic.graph.recording import record, walk_back
from ADAttributionLogic.method_options import Option


def feature_layer(graph: LayerGraph, name: str | None = None) -> int:
    """Return the activated output of the last convolution, or of the one named.

    Raises
    ------
    NetworkError
        There is no such convolution.
    """
    if name is not None:
        index = graph.index(name)
        if not isinstance(graph.layers[index].operation, Convolution):
            raise NetworkError(f"Layer {graph.layers[index]} is no convolution; Grad-CAM needs a feature map.")
    else:
        convolutions = [i for i, layer in enumerate(graph.layers) if isinstance(layer.operation, Convolution)]
        if not convolutions:
            raise NetworkError("Grad-CAM needs a convolution, but the network has none.")
        index = convolutions[-1]
    consumers = graph.consumers()
    while len(consumers[index]) == 1 and isinstance(graph.layers[consumers[index][0]].operation, (Activation, Affine)):
        index = consumers[index][0]
    return index


def _averages_over_positions(graph: LayerGraph, layer: int) -> bool:
    """Whether the feature map is averaged over all positions before the dense layers, as Grad-CAM presumes."""
    for item in graph.layers[layer + 1 :]:
        if isinstance(item.operation, AdaptiveAveragePool) and set(item.operation.size) == {1}:
            return True
        if isinstance(item.operation, Reshape):
            return False
    return False


def _grad_cam(job: Job) -> MapResult:
    graph = job.evaluation.graph()
    layer = feature_layer(graph, None if job.options["layer"] is None else str(job.options["layer"]))
    recording = record(graph, job.evaluation.image, keep=frozenset({layer}), check=job.monitor.check)
    seed = job.decision.gradient_at_logits(recording.logits)
    gradient = walk_back(recording, seed, GradientRule(), target_layer=layer, check=job.monitor.check)[0]
    features = recording.outputs[layer][0]
    variant = job.options["variant"]
    if variant == "auto":
        variant = "grad-cam" if _averages_over_positions(graph, layer) else "hires-cam"
    if variant == "grad-cam":
        gradient = gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)
    units = (gradient * features).sum(dim=0)
    if not job.options["signed"]:
        units = units.clamp(min=0)
    placement = unit_placement(graph, layer)
    heatmap = place_on_image(units, placement, tuple(job.evaluation.image.shape[2:]))
    size = "×".join(map(str, units.shape))
    step = "×".join(f"{s:g}" for s in placement.step)
    note = f"{variant} of {graph.layers[layer].name}: {size} units, {step} voxels apart, interpolated to the image."
    return MapResult(heatmap[None], notes=(note,))


register(
    Method(
        "grad-cam",
        "Grad-CAM / HiResCAM",
        "Where did the last feature maps speak for the decision? (coarse)",
        "Selvaraju et al. 2017, arXiv:1610.02391; Draelos & Carin 2020, arXiv:2011.08891",
        _grad_cam,
        (
            Option(
                "variant",
                "auto",
                "grad-cam: gradients averaged over positions; hires-cam: position by position; auto: grad-cam only "
                "where the network averages over positions itself",
                str,
                ("auto", "grad-cam", "hires-cam"),
            ),
            Option("layer", None, "name of the convolution; the last one by default", str),
            Option("signed", False, "keep what speaks against the class", bool),
        ),
        is_signed=False,
        needs_layers=True,
    )
)
