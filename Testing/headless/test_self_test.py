"""The module's self-test, without Slicer's application: the same checks on the slicer-core wheel."""

from __future__ import annotations

import tempfile
import unittest

import pytest
import slicer

from ADAttributionLib import SelfTest
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.WorkerClient import WorkerClient


@pytest.fixture(scope="module")
def client():
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as cache:
        patch.setenv("AD_ATTRIBUTION_CACHE", cache)
        made = WorkerClient(graceSeconds=1.0, arguments=("--threads", "1"))
        yield made
        made.close()


@pytest.fixture
def logic(scene, client, tmp_path):
    cache = slicer.vtkCacheManager()  # Slicer's application has one
    cache.SetRemoteCacheDirectory(str(tmp_path))
    dataIO = slicer.vtkDataIOManager()
    dataIO.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(dataIO)
    made = ExplainLogic(scene, client)
    yield made
    scene.RemoveObserver(made._closing)


@pytest.mark.parametrize(
    "check", [SelfTest.checkExplain, SelfTest.checkSaveAndReload, SelfTest.checkCancel, SelfTest.checkNativeScan]
)
def test_the_self_test_passes(scene, logic, check) -> None:
    check(unittest.TestCase(), scene, logic)


def test_bad_input_is_refused(scene, logic) -> None:
    SelfTest.checkBadInput(unittest.TestCase(), scene, logic)


@pytest.mark.slow
def test_the_demonstration_network_looks_at_what_was_shrunken(scene, logic) -> None:
    SelfTest.checkDemonstration(unittest.TestCase(), scene, logic)
