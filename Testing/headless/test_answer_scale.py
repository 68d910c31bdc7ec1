"""A score and an ensemble in the panel: headline, scale with levels, every network's value."""

from __future__ import annotations

import html
import re
from types import SimpleNamespace

import pytest

from ADAttributionLib import ModelCards
from ADAttributionLib.AnswerPanel import answerLine, answerText
from ADAttributionLib.AnswerScale import outcomeText, scaleText
from ADAttributionLib.QuestionPanel import Start
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.networks.output import Output
from ADAttributionLogic.outcome import Outcome, outcome_of

COG = Output("score", "COG", "how impaired", "points", (0.0, 2.0), ("normal", "impaired", "demented"), (0.5, 1.0))


def of_scores(*values: float, output: Output = COG) -> Outcome:
    return outcome_of(output, (output.name,), [(f"cross{n}", (v,), ()) for n, v in enumerate(values)])


def plain(text: str) -> list[str]:
    """The lines of a rich text as they are read."""
    return [html.unescape(re.sub("<[^>]+>", "", line)).replace("\xa0", " ") for line in text.split("<br>")]


def run_of(outcome: Outcome | None, **probabilities: float) -> SimpleNamespace:
    record = {} if outcome is None else {"outcome": outcome.describe()}
    target = next(iter(probabilities), "COG")
    facts = {"provenance": record, "probabilities": probabilities, "targetClass": target}
    return SimpleNamespace(name="run 1", scanNode=None, **facts)


def test_a_score_on_its_scale_with_levels_and_networks() -> None:
    lines = plain(scaleText(of_scores(0.25, 0.25, 1.0, 0.5), "COG"))
    mean, levels, networks, ends, legend = lines
    assert mean.index("▼") == 12  # 0.5 of 0 to 2, on 48 cells
    assert [levels.strip().split()[n] for n in range(3)] == ["normal", "impaired", "demented"] and len(levels) == 48
    assert {n: c for n, c in enumerate(networks) if c.strip()} == {6: "2", 12: "1", 24: "1"}
    assert (ends[0], ends[-1]) == ("0", "2") and "impaired from 0.5, demented from 1" in legend


def test_the_answer_says_how_many_networks_agree() -> None:
    run = run_of(of_scores(0.25, 0.3, 0.4, 0.9))
    assert "run 1: <b>COG = 0.46 points, normal (3 of 4 networks say normal)</b>" in answerLine(run)
    text = " ".join(plain(answerText(run)))
    assert "How impaired" in text and "cross3 0.90 impaired" in text


def test_a_value_beyond_the_scale_stretches_it() -> None:
    lines = plain(scaleText(of_scores(-0.5, 2.5), "COG"))
    assert (lines[3].split()[0], lines[3].split()[-1]) == ("-0.5", "2.5")
    assert lines[2].strip()[0] == "1" and len(lines[2].rstrip()) == 48


def test_a_score_without_levels_of_a_single_network() -> None:
    outcome = of_scores(41.5, output=Output("score", "age", "years of age", "years"))
    assert scaleText(outcome, "age") == ""
    assert plain(outcomeText(outcome, "age")) == ["age = 41.50 years", "Years of age"]


def test_classes_of_a_single_network_stay_bars() -> None:
    outcome = outcome_of(Output("softmax"), ("CN", "AD"), [("", (0.25, 0.75), ())])
    for run in (run_of(outcome, CN=0.25, AD=0.75), run_of(None, CN=0.25, AD=0.75)):
        assert "█" in answerText(run) and "AD 75.0%" in answerLine(run)


def test_names_are_escaped() -> None:
    outcome = of_scores(0.1, 0.2, output=Output("score", "<i>x", "a & b"))
    assert "<i>" not in outcomeText(outcome, "<i>x") and "A &amp; b" in outcomeText(outcome, "<i>x")


def test_the_question_for_a_score() -> None:
    card = {"title": "t", "output": {"kind": "score", "name": "COG", "meaning": "m"}}
    assert ModelCards.targetClasses(card) == [("COG (a score)", "COG")]
    assert "COG, a score" in ModelCards.describeCard(card)
    assert (Start.PROBABILITY.quantity(), Start.DISTANCE.quantity()) == (None, "distance")


def test_a_card_of_classes_still_needs_them(tmp_path) -> None:
    (tmp_path / "model.json").write_text('{"title": "t", "output": {"kind": "softmax"}}', encoding="utf-8")
    with pytest.raises(NetworkError, match="classes"):
        ModelCards.cardOf(tmp_path)
