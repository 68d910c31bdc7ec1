"""Who takes part: the methods with their main options, and what must lose against them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import UnknownNameError

#: On which network a method runs: the model's, the same architecture with random weights, or none.
On = Literal["model", "untrained", "nothing"]

#: What becomes of maps: the map of the positive class's logit less that of the other's; regions by their z against the
#: benchmark's controls (:mod:`~.truth.region_z`).
Variant = Literal["", "contrast", "z"]

FloatMap = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Contestant:
    """Something that makes a map of a scan.

    Attributes
    ----------
    name : str
        Unique, also that of its files.
    on : {"model", "untrained", "nothing"}
    method : str
        Of the registry; "" for what needs no network.
    options : mapping
    variant : {"", "contrast", "z"}
    filter : callable or None
        Of what needs no network: (scan, control mean, seed) → map.
    """

    name: str
    on: On
    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: Variant = ""
    filter: Callable[[FloatMap, FloatMap, int], FloatMap] | None = None

    @property
    def fingerprint(self) -> str:
        """Changes with what is asked of it."""
        asked = [self.name, self.on, self.method, dict(self.options), *([self.variant] if self.variant else [])]
        key = json.dumps(asked, sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()[:16]


def _edges(scan: FloatMap, mean: FloatMap, seed: int) -> FloatMap:
    """Length of the scan's gradient (Gaussian of 1 voxel): what any map of a network that sees edges looks like."""
    from scipy.ndimage import gaussian_gradient_magnitude

    edges: FloatMap = gaussian_gradient_magnitude(scan, 1.0)
    return edges


def _noise(scan: FloatMap, mean: FloatMap, seed: int) -> FloatMap:
    return np.random.default_rng([seed, 20]).random(scan.shape, dtype=np.float32)


def _departure(scan: FloatMap, mean: FloatMap, seed: int) -> FloatMap:
    """|scan − control mean|: what differs, asked of no network."""
    return np.abs(scan - mean)


def _method(name: str, method: str, on: On = "model", variant: Variant = "", **options: Any) -> Contestant:
    return Contestant(name, on, method, options, variant)


CONTESTANTS: tuple[Contestant, ...] = (
    _method("lrp", "lrp"),
    _method("lrp-beta-1", "lrp", beta=1.0),
    _method("lrp-e-rule", "lrp", rule="e-rule"),
    _method("lrp-epsilon-plus-flat", "lrp", rule="epsilon-plus-flat"),
    _method("lrp-epsilon-gamma-box", "lrp", rule="epsilon-gamma-box"),
    _method("lrp-contrast", "lrp", variant="contrast"),
    _method("lrp-z", "lrp", variant="z"),
    _method("lrp-shifted", "lrp", shifted=True),
    _method("deeplift", "deeplift"),
    _method("deeplift-gamma", "deeplift", rule="gamma"),
    _method("deeplift-gamma-z", "deeplift", variant="z", rule="gamma"),
    _method("deeplift-gamma-shifted", "deeplift", rule="gamma", shifted=True),
    _method("deeplift-gamma-blur", "deeplift", rule="gamma", baseline="blur"),
    _method("integrated-gradients", "integrated-gradients", steps=6),
    _method("integrated-gradients-reference", "integrated-gradients", steps=4, baseline="reference"),
    _method("sensitivity", "sensitivity"),
    _method("gradient-x-input", "gradient-x-input"),
    _method("guided-backprop", "guided-backprop"),
    _method("smoothgrad", "smoothgrad", samples=4),
    _method("grad-cam", "grad-cam"),
    _method("occlusion-20", "occlusion", size=20, stride=20),
    _method("occlusion-20-reference", "occlusion", size=20, stride=20, fill="reference"),
    _method("area-occlusion", "area-occlusion"),
    _method("area-occlusion-reference", "area-occlusion", fill="reference"),
    _method("untrained-lrp", "lrp", on="untrained"),
    _method("untrained-deeplift-gamma", "deeplift", on="untrained", rule="gamma"),
    _method("untrained-gradient-x-input", "gradient-x-input", on="untrained"),
    _method("untrained-guided-backprop", "guided-backprop", on="untrained"),
    Contestant("departure", "nothing", filter=_departure),
    Contestant("edge-filter", "nothing", filter=_edges),
    Contestant("noise", "nothing", filter=_noise),
)


def choose_contestants(names: str) -> tuple[Contestant, ...]:
    """Those named in a list with commas; all for "all".

    Raises
    ------
    UnknownNameError
    """
    if names == "all":
        return CONTESTANTS
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise UnknownNameError("contestant", name, known)
    return tuple(known[name] for name in wanted)
