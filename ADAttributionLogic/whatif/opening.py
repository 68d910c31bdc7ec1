"""Beginning with a scan: what the network sees of it, recorded and kept for trials."""

from __future__ import annotations

import os

import torch

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.device import choose_device
from ADAttributionLogic.errors import ReferenceCohortError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.network import Network
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.reference.package import read_reference
from ADAttributionLogic.registration.space_transform import SpaceTransform
from ADAttributionLogic.volume import Volume
from ADAttributionLogic.whatif.filling import Subject
from ADAttributionLogic.whatif.placing import Placing, labels_on_model
from ADAttributionLogic.whatif.session import MEMORY_BYTES, Session, over_bound
from ADAttributionLogic.whatif.warm import WarmNetwork


def open_session(
    scan: Volume,
    model: Model,
    *,
    transform: SpaceTransform | None = None,
    atlas: Atlas | None = None,
    atlas_is_drawn: bool = False,
    reference: Volume | None = None,
    device: str = "auto",
    replace_non_finite: float | None = None,
    memory_bytes: int = MEMORY_BYTES,
    monitor: Monitor | None = None,
) -> Session:
    """Begin trials on a scan.

    Parameters
    ----------
    scan : Volume
        Registered to the network's space and skull-stripped, as :func:`~.explain.explain` takes it; of a prepared scan
        its brain.
    model : Model
        With all its members.
    transform : SpaceTransform, optional
        Between the scan as acquired and the network's space, where boxes and segments lie on the scan as acquired.
    atlas : Atlas, optional
        In the network's space, on any grid; or where boxes lie, with `atlas_is_drawn`.
    reference : Volume, optional
        The mean scan of a reference package, see :func:`mean_scan_for`.
    device : str
    replace_non_finite : float, optional
        Value for NaN and infinite voxels, which are refused otherwise.
    memory_bytes : int
        Bound on what the networks' recorded activations take together.
    monitor : Monitor, optional

    Raises
    ------
    ADAttributionError
        As :func:`~.explain.explain`: scan, network, atlas.
    """
    monitor = monitor or Monitor()
    monitor.report(0.0, "preparing the scan")
    seen = prepare(scan, model.grid, model.normalisation, replace_non_finite=replace_non_finite)
    grid = seen.volume.grid
    placed = None
    if atlas is not None and atlas_is_drawn and transform is not None:
        labels = labels_on_model(atlas.labels, transform, grid)
        placed = Atlas(atlas.name, labels, atlas.regions, atlas.title, atlas.licence, atlas.source)
    elif atlas is not None:
        placed = atlas.on_grid(grid)
    notes = (*seen.notes, *(() if placed is None else placed.labels.notes))
    image = torch.from_numpy(seen.array)[None, None]
    subject = Subject(model, image, Placing(grid, transform, placed), reference, notes)
    return warm_session(subject, device, memory_bytes, monitor)


def mean_scan_for(path: str | os.PathLike[str], model: Model) -> Volume:
    """The mean scan of a reference package, as this model sees scans.

    Raises
    ------
    ReferenceCohortError, UnknownNameError
        There is no such package, it is damaged, or it was built with another network.
    """
    reference = read_reference(path)
    built = reference.question["model"]
    if built["weights_sha256"] != model.weights_sha256:
        raise ReferenceCohortError(
            f"The reference {reference.name} was built with {built['title']}, whose weights are not those of "
            f"{model.title}. Choose a reference of this network, or put in something else."
        )
    return reference.mean_scan()


def warm_session(subject: Subject, device: str, memory_bytes: int, monitor: Monitor) -> Session:
    """Record what every network of a model computes of an image."""
    model, place = subject.model, choose_device(device)
    networks: list[tuple[str, WarmNetwork, tuple[float, ...]]] = []
    members = model.members or (None,)
    held = 0
    for number, member in enumerate(members):
        monitor.report((number + 1) / (len(members) + 1), "running the network on the whole scan")
        network: Network = model.network if member is None or number == 0 else member.load()
        warm = WarmNetwork(Evaluation(network, subject.image, place, monitor))
        held += warm.held_bytes
        if held > memory_bytes:
            held -= warm.held_bytes
            warm.let_go(over_bound(memory_bytes))
        networks.append(("" if member is None else member.name, warm, () if member is None else member.thresholds))
    return Session(subject, networks, memory_bytes)
