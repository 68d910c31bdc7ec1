"""Fixtures of the tests on real MRML."""

from __future__ import annotations

import pytest
import slicer  # of the slicer-core wheel (extra headless)

from ADAttributionLib import SceneBuilder, SceneFile
from ADAttributionLib.Overlays import forgetStatistics
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.explain import MethodRequest, explain
from ADAttributionLogic.service.answer import Answer, answer_of


@pytest.fixture(scope="session")
def answer(small_scan, small_model) -> Answer:
    """Three maps of the small network with region tables."""
    methods = ["lrp", MethodRequest("gradient-x-input"), MethodRequest("lrp", {"beta": 1.0})]
    return answer_of(explain(small_scan, small_model, methods, atlas=load_atlas("neuromorphometrics")))


@pytest.fixture
def scene():
    """An empty scene with three slice views."""
    made = SceneFile.newScene()
    for color in ("Red", "Yellow", "Green"):
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(color)
        composite.SetSingletonTag(color)
        made.AddNode(composite)
    yield made
    forgetStatistics()
    SceneFile.closeScene(made)


@pytest.fixture
def scanNode(scene, small_scan):
    """The user's scan in the scene."""
    node = SceneBuilder.addVolume(scene, small_scan, "T1 of a patient")
    node.CreateDefaultDisplayNodes()
    return node
