"""How far the answer moves when the scan lies a fraction of a millimetre elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_grid import SMALL_AFFINE, SMALL_SHAPE
from small_networks import PublishedStyle

from ADAttributionLogic.answer_spread import (
    SHIFT_MM,
    TURN_DEGREES,
    AnswerSpread,
    mean_move_mm,
    small_moves,
    spread_note,
    spread_of,
)
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cli import main
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.explain import Explanation, MethodRequest, explain
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.loading import model_from_module
from ADAttributionLogic.networks.output import Output
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.outcome import outcome_of
from ADAttributionLogic.preprocessing.moved_scans import move_prepared, move_registered
from ADAttributionLogic.preprocessing.pipeline import Preprocessed
from ADAttributionLogic.service.answer import answer_of
from ADAttributionLogic.simulation.native_scan import Acquisition, acquire
from ADAttributionLogic.volume import Volume

SMALL = Grid(SMALL_SHAPE, SMALL_AFFINE)
CENTRE = SMALL.to_ras((np.array(SMALL_SHAPE) - 1) / 2)


@pytest.fixture(scope="module")
def explanation(template: Volume, small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    """Of a simulated scan as acquired."""
    acquisition = Acquisition((15, -8, 10), (25, -15, 20), (2.5, 2.5, 3.0), "sagittal", "int16", 0.15, 0.01, 3)
    scan = acquire(template, acquisition).scan
    return explain_native(scan, small_model, ["gradient-x-input"], cache=tmp_path_factory.mktemp("cache"))


# ------------------------------------------------------------------------------------------------------------ the moves


def test_the_moves_are_small_rigid_and_balanced() -> None:
    moves = small_moves(CENTRE)
    assert len(moves) == 4
    for move in moves:
        np.testing.assert_allclose(move[:3, :3] @ move[:3, :3].T, np.eye(3), atol=1e-12)
        angle = np.degrees(np.arccos((np.trace(move[:3, :3]) - 1) / 2))
        assert angle == pytest.approx(TURN_DEGREES, rel=1e-3)
        assert np.linalg.norm(move[:3, :3] @ CENTRE + move[:3, 3] - CENTRE) == pytest.approx(SHIFT_MM)
    shifts = np.array([move[:3, :3] @ CENTRE + move[:3, 3] - CENTRE for move in moves])
    np.testing.assert_allclose(shifts.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(shifts.T @ shifts, np.eye(3) * SHIFT_MM**2 * 4 / 3, atol=1e-12)


def test_the_brain_moves_by_a_quarter_of_a_millimetre(template: Volume) -> None:
    assert 0.2 < mean_move_mm(template, small_moves(CENTRE)) < 0.25


# ----------------------------------------------------------------------------------------------------- the moved scans


def bump(point: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    """A smooth ball around a point, on a background that is never 0 inside a box."""
    places = Grid(shape, affine).to_ras(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))
    values = 1 + 100 * np.exp(-((places - point) ** 2).sum(axis=-1) / (2 * 9.0**2))
    return Volume(values.astype(np.float32), affine)


def centre_of(volume: Volume) -> np.ndarray:
    values = np.clip(volume.array.astype(np.float64) - 3, 0, None)
    indices = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), axis=-1)
    return volume.grid.to_ras((indices * values[..., None]).sum(axis=(0, 1, 2)) / values.sum())


@pytest.mark.parametrize("spacing", [2.5, 2.0])
def test_a_registered_scan_is_moved_by_the_move(spacing: float) -> None:
    """On the network's grid by splines, on another one by its affine: what was at move(p) is at p afterwards."""
    from ADAttributionLogic.preprocessing.model_input import prepare
    from ADAttributionLogic.preprocessing.normalisation import Normalisation

    affine = np.array(SMALL_AFFINE)
    affine[:3, :3] *= spacing / 2.5
    shape = tuple(round(n * 2.5 / spacing) for n in SMALL_SHAPE)
    point = np.array((12.0, -30.0, 7.0))
    scan = bump(point, affine, (shape[0], shape[1], shape[2]))
    here = centre_of(prepare(scan, SMALL, Normalisation()).unnormalised)
    for move in small_moves(CENTRE):
        (moved,) = move_registered(scan, SMALL, [move])
        wanted = np.linalg.inv(move) @ np.append(here, 1)
        found = centre_of(prepare(moved, SMALL, Normalisation()).unnormalised)
        np.testing.assert_allclose(found, wanted[:3], atol=0.01)
        assert np.linalg.norm(found - here) > 0.1


def test_what_was_nothing_around_a_brain_stays_so(small_scan: Volume) -> None:
    for moved in move_registered(small_scan, SMALL, small_moves(CENTRE)):
        assert moved.grid.is_same(SMALL)
        assert (moved.array != 0).mean() == pytest.approx((small_scan.array != 0).mean(), rel=0.01)
        assert moved.array.min() >= 0 and moved.array.max() <= small_scan.array.max()


def test_a_prepared_scan_goes_through_its_steps_again(explanation: Explanation) -> None:
    """A move that is none gives the very same brain; others are made from the scan, not from the brain on the grid."""
    prepared: Preprocessed = explanation.preprocessed
    (same,) = move_prepared(prepared, [np.eye(4)])
    np.testing.assert_array_equal(same.array, prepared.brain.array)
    moves = small_moves(CENTRE)
    for move, moved in zip(moves, move_prepared(prepared, moves), strict=True):
        assert moved.grid.is_same(SMALL) and (moved.array != same.array).any()
        inside = (moved.array > 0) & (same.array > 0)
        assert inside.sum() > 0.99 * (same.array > 0).sum()
        assert np.corrcoef(moved.array[inside], same.array[inside])[0, 1] > 0.99
        transform = prepared.transform
        points = np.array(((10.0, 20, 30), (-40, -60, 0)))
        there = transform.points_to_scan(points @ move[:3, :3].T + move[:3, 3])
        np.testing.assert_allclose((transform.matrix @ move @ np.c_[points, np.ones(2)].T)[:3].T, there, atol=1e-9)


# ----------------------------------------------------------------------------------------------------------- the number


def test_plus_minus_is_the_largest_change() -> None:
    answers = ({"AD": 0.6, "CN": 0.4}, {"AD": 0.65, "CN": 0.35}, {"AD": 0.5, "CN": 0.5}, {"AD": 0.61, "CN": 0.39})
    spread = AnswerSpread(answers, 0.24)
    assert spread.plus_minus == pytest.approx({"AD": 0.1, "CN": 0.1})
    record = json.loads(json.dumps({"answer_spread": spread.describe()}))
    assert spread_of(record) == spread.plus_minus and record["answer_spread"]["answers"]["AD"] == [0.6, 0.65, 0.5, 0.61]
    outcome = outcome_of(Output("softmax"), ["AD", "CN"], [("", (0.6, 0.4), ())])
    assert outcome.headline(spread_of(record)) == "P(AD) = 0.600 ± 0.100   P(CN) = 0.400 ± 0.100"
    assert spread_note(record) == "± how far the answer moves when the scan lies 0.2 mm elsewhere"
    assert outcome.headline() == "P(AD) = 0.600   P(CN) = 0.400" and spread_of({}) == {} and spread_note({}) == ""


def by_hand(model: Model, moved: Volume) -> float:
    """The network itself on a moved scan."""
    from ADAttributionLogic.preprocessing.model_input import prepare

    image = torch.from_numpy(prepare(moved, model.grid, model.normalisation).array)[None, None]
    with torch.no_grad():
        return float(torch.softmax(model.network.layers.logits(image), dim=1)[0, 1])


@pytest.mark.parametrize("kind", ["registered", "as acquired"])
def test_the_answers_are_the_networks_own(
    kind: str, explanation: Explanation, small_scan: Volume, small_model: Model
) -> None:
    moves = small_moves(CENTRE)
    if kind == "registered":
        found = explain(small_scan, small_model, ["gradient-x-input"])
        moved = move_registered(small_scan, SMALL, moves)
    else:
        found, moved = explanation, move_prepared(explanation.preprocessed, moves)
    told = found.provenance["answer_spread"]["answers"]["AD"]
    assert told[0] == pytest.approx(found.probabilities["AD"], abs=1e-7)
    assert told[1:] == pytest.approx([by_hand(small_model, scan) for scan in moved], abs=1e-6)
    largest = max(abs(value - told[0]) for value in told)
    assert found.spread["AD"] == pytest.approx(largest) == pytest.approx(found.spread["CN"], abs=1e-6)
    assert largest > 0


def test_a_network_without_a_space_and_a_question_without_the_spread() -> None:
    torch.manual_seed(0)
    model = model_from_module(PublishedStyle(3), (20, 20, 20))
    scan = Volume(np.random.default_rng(0).random((20, 20, 20)).astype(np.float32), np.eye(4))
    assert set(explain(scan, model, ["sensitivity"]).spread) == set(model.classes)
    without = explain(scan, model, ["sensitivity"], with_spread=False)
    assert without.spread == {} and "answer_spread" not in without.provenance


# ------------------------------------------------------------------------------------------------------ where it stands


def test_it_stands_beside_the_probability_everywhere(
    small_scan: Volume,
    small_scan_file: Path,
    small_package: Path,
    small_model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = explain(small_scan, small_model, ["sensitivity"])
    spread = found.spread["AD"]
    command = ["explain", str(small_scan_file), "--model", str(small_package), "--method", "sensitivity"]
    headlines: list[str] = []
    monkeypatch.setattr("ADAttributionLogic.report.overview.write_figure", headline_keeper(headlines))
    assert main([*command, "--atlas", "none", "--no-scene", "--out", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert f"P(AD) = {found.probabilities['AD']:.3f} ± {spread:.3f}" in printed and "mm elsewhere" in printed
    (figure,) = headlines
    assert f"P(AD) = {found.probabilities['AD']:.3f} ± {spread:.3f}" in figure and "mm elsewhere" in figure
    record = json.loads((tmp_path / "one" / "provenance.json").read_text(encoding="utf-8"))
    assert spread_of(record)["AD"] == pytest.approx(spread, abs=1e-6)
    scans = [BatchScan("one", small_scan_file)]
    options = BatchOptions([MethodRequest("sensitivity")], figure=False)
    result = explain_batch(scans, small_model, options, tmp_path / "many")
    with open(result.summary, newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["P(AD) ±"]) == pytest.approx(spread, abs=1e-6)
    assert spread_of(answer_of(found).provenance) == found.spread


def headline_keeper(headlines: list[str]) -> Callable[..., Path]:
    """The real figure, and what is written above and below it."""
    from ADAttributionLogic.report import figure

    def keep(path: Path, scan: Volume, rows: object, headline: str, footnote: str, **rest: object) -> Path:
        headlines.append(f"{headline} {footnote}")
        return figure.write_figure(path, scan, rows, headline, footnote, **rest)  # type: ignore[arg-type]

    return keep
