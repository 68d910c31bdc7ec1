"""The estimate of time: in forward passes, against what was measured."""

from __future__ import annotations

import pytest
import torch

from ADAttributionLogic.attribution.registry import Companions, get_method
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import UnknownNameError
from ADAttributionLogic.explain import MethodRequest
from ADAttributionLogic.member_runs import Question, progress_bounds
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.service.estimate import estimate, forward_passes, seconds_per_pass

SHAPE = (193, 229, 193)


@pytest.fixture(scope="module")
def bundled() -> Model:
    return load_model("simulated-atrophy")


#: Method, options, regions of the atlas, and forward passes: processor time of one thread on the bundled network.
MEASURED = [
    ("lrp", {}, 0, 3.9),
    ("lrp", {"beta": 1.0}, 0, 7.1),
    ("lrp", {"rule": "e-rule"}, 0, 3.9),
    ("lrp", {"rule": "e-rule", "beta": 1.0}, 0, 3.9),
    ("lrp", {"rule": "epsilon-plus-flat"}, 0, 3.7),
    ("lrp", {"rule": "epsilon-gamma-box"}, 0, 7.4),
    ("lrp", {"batch_norm": "pass"}, 0, 5.9),
    ("deeplift", {}, 0, 4.6),
    ("deeplift", {"rule": "gamma"}, 0, 10.9),
    ("sensitivity", {}, 0, 1.5),
    ("gradient-x-input", {}, 0, 1.5),
    ("guided-backprop", {}, 0, 1.6),
    ("grad-cam", {}, 0, 1.7),
    ("integrated-gradients", {"steps": 4}, 0, 14.7),
    ("smoothgrad", {"samples": 4}, 0, 14.0),
    ("occlusion", {}, 0, 9.4),
    ("occlusion", {"size": 4, "stride": 16}, 0, 2.8),
    ("occlusion", {"size": 8, "stride": 16}, 0, 3.3),
    ("occlusion", {"size": 12, "stride": 12}, 0, 6.9),
    ("occlusion", {"size": 16, "stride": 16}, 0, 5.5),
    ("occlusion", {"size": 20, "stride": 20}, 0, 4.5),
    ("occlusion", {"size": 25, "stride": 25}, 0, 3.7),
    ("occlusion", {"size": 60, "stride": 30}, 0, 15.7),
    ("occlusion", {"size": 80, "stride": 40}, 0, 12.7),
    ("occlusion", {"size": 120, "stride": 50}, 0, 30.2),
    ("area-occlusion", {}, 120, 12.5),
    ("area-occlusion", {}, 136, 21.3),
    ("area-occlusion", {}, 112, 23.9),
    ("area-occlusion", {"pairs": 5}, 120, 11.7),
    ("voxel-occlusion", {"mask": "4101, 4102"}, 120, 20.4),
]


@pytest.mark.parametrize(("name", "options", "regions", "measured"), MEASURED)
def test_estimates_are_within_a_factor_of_two(
    bundled: Model, name: str, options: dict, regions: int, measured: float
) -> None:
    found = forward_passes(MethodRequest(name, options), bundled, regions)
    assert measured / 2 <= found <= 2 * measured, found


def test_more_work_takes_longer(bundled: Model) -> None:
    def passes(name: str, regions: int = 0, **options: object) -> float:
        return forward_passes(MethodRequest(name, options), bundled, regions)

    assert passes("occlusion", stride=10) > 10 * passes("occlusion", stride=25)
    assert passes("smoothgrad", samples=32) == 2 * passes("smoothgrad", samples=16)
    assert passes("voxel-occlusion", mask="all") > 4 * passes("voxel-occlusion") > 1000
    assert passes("area-occlusion", 120, pairs=20) > passes("area-occlusion", 120)
    assert passes("area-occlusion", 2) <= 3, "no region takes more than a full pass"
    with pytest.raises(UnknownNameError):
        passes("occlusion", stripe=3)


def test_progress_is_shared_by_the_time_that_methods_take() -> None:
    """So that what is left can be judged by it: ten minutes after two seconds are not half of the work."""
    chosen = [
        (get_method(n), get_method(n).complete(o)) for n, o in (("lrp", {}), ("voxel-occlusion", {"minutes": 10}))
    ]
    question = Question(torch.zeros(1, 1, *SHAPE), chosen, Target(1), torch.device("cpu"), Companions())
    evaluated, lrp, voxels = progress_bounds(question)
    assert 0 < evaluated < lrp < 0.01 and voxels == 1.0
    seconds = 600.0
    assert seconds * (1 - lrp) / lrp > 20 * seconds, "while LRP runs, nobody is told that it ends soon"


def test_seconds_are_passes_times_a_real_pass_and_end_with_the_budget(small_model) -> None:
    seconds = seconds_per_pass(small_model, torch.device("cpu"))
    requests = [MethodRequest("lrp"), MethodRequest("voxel-occlusion", {"minutes": 1e-4})]
    found = estimate(requests, small_model, seconds)
    lrp, voxels = (entry["seconds"] for entry in found["methods"])
    assert 0.001 < seconds < 60 and lrp == pytest.approx(3.8 * seconds, abs=1e-3) and voxels == 0.006
    assert found["seconds"] == pytest.approx(lrp + voxels + 5 * seconds, abs=5e-3)  # five answers


def test_checks_count_for_every_map_and_network_with_their_whole_budget(bundled: Model) -> None:
    requests = [MethodRequest("lrp"), MethodRequest("sensitivity")]
    without, found = estimate(requests, bundled, 0.5), estimate(requests, bundled, 0.5, checks=40)
    assert found["checks"] == 2 * 40 * 0.5 and without["checks"] == 0
    assert found["seconds"] == pytest.approx(without["seconds"] + 40)
