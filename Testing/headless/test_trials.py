"""What if, on real runs in a real scene with a real worker: from a click, or a line on the console, to the answer."""

from __future__ import annotations

import numpy as np
import pytest

from ADAttributionLib import SceneBuilder
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.WhatIf import WhatIf
from ADAttributionLib.WorkerClient import WorkerClient, WorkerError
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.volume import Volume
from ADAttributionLogic.whatif.covers import Cover, Regions
from ADAttributionLogic.whatif.opening import open_session


@pytest.fixture(scope="module")
def client():
    made = WorkerClient(graceSeconds=0.5, arguments=("--threads", "1"))
    yield made
    made.close()


@pytest.fixture
def explainer(scene, client):
    logic = ExplainLogic(scene, client)
    yield logic
    scene.RemoveObserver(logic._closing)


@pytest.fixture
def run(explainer, scanNode, small_package):
    return explainer.explain(scanNode, small_package, ["gradient-x-input"], atlas="neuromorphometrics")


HIPPOCAMPI = {"regions": ["Left Hippocampus", "right_hippocampus"], "put": "zero"}


def test_the_console_says_what_the_function_says(explainer, run, small_scan, small_model, small_package) -> None:
    trials = WhatIf(explainer)
    trial = trials.ask(run, HIPPOCAMPI, model=small_package)
    session = open_session(small_scan, small_model, atlas=load_atlas("neuromorphometrics"))
    right = session.ask([Cover(Regions(("Left Hippocampus", "right_hippocampus")), "zero")])
    assert dict(trial.after.values) == pytest.approx(dict(right.after.values), abs=1e-6)
    assert dict(trial.before.values) == pytest.approx(run.probabilities, abs=1e-6)
    assert trial.volumeMm3 == pytest.approx(right.volume_mm3) and trial.covers == right.covers
    box = {"box": {"centre": [-24, -20, -16], "size": 30}, "put": "blurred"}
    both = trials.ask(run, [HIPPOCAMPI, box], model=small_package)
    assert both.volumeMm3 > trial.volumeMm3 and len(both.covers) == 2
    again = trials.ask(run, HIPPOCAMPI, model=small_package)
    assert dict(again.after.values) == dict(trial.after.values), "to the last bit"


def test_a_segment_that_was_drawn_is_covered(scene, explainer, run, small_package, small_scan) -> None:
    labels = np.zeros(small_scan.array.shape, np.int32)
    labels[30:40, 40:50, 30:40] = 1
    atlas = load_atlas("neuromorphometrics")
    drawn = SceneBuilder.addAtlasSegmentation(
        scene,
        type(atlas)("mine", Volume(labels, small_scan.affine), (type(atlas.regions[0])(1, "lesion"),)),
        "Segmentation",
    )
    trials = WhatIf(explainer)
    cover = {"segmentation": drawn, "segment": "lesion", "put": "zero"}
    trial = trials.ask(run, cover, model=small_package)
    assert trial.volumeMm3 == pytest.approx(1000 * 2.5**3, rel=0.02) and "segment lesion" in trial.covers[0]
    with pytest.raises(UsageError, match="no segment 'tumour'"):
        trials.ask(run, {"segmentation": drawn, "segment": "tumour"}, model=small_package)


def test_trials_begin_anew_when_something_else_was_computed(explainer, run, scanNode, small_package) -> None:
    trials = WhatIf(explainer)
    first = trials.ask(run, HIPPOCAMPI, model=small_package)
    explainer.explain(scanNode, small_package, ["sensitivity"], atlas=None)
    assert dict(trials.ask(run, HIPPOCAMPI, model=small_package).after.values) == dict(first.after.values)
    explainer.client.close()  # and with another worker
    assert dict(trials.ask(run, HIPPOCAMPI, model=small_package).after.values) == dict(first.after.values)
    trials.release()
    assert dict(trials.ask(run, HIPPOCAMPI, model=small_package).after.values) == dict(first.after.values)


def test_mistakes_are_said_and_the_session_goes_on(explainer, run, small_package) -> None:
    trials = WhatIf(explainer)
    with pytest.raises(WorkerError, match="Did you mean Left_Hippocampus") as caught:
        trials.ask(run, {"regions": "Left Hipocampus"}, model=small_package)
    assert caught.value.kind == "UsageError" and len(str(caught.value)) < 300
    with pytest.raises(UnknownNameError, match="blurred"):
        trials.ask(run, {**HIPPOCAMPI, "put": "blured"}, model=small_package)
    with pytest.raises(WorkerError, match="other weights"):
        trials.ask(run, HIPPOCAMPI, model="simulated-atrophy")
    assert trials.ask(run, HIPPOCAMPI, model=small_package).after.values
