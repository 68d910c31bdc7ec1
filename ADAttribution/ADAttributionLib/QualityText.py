"""A preparation's report in words, for the panel and the console. Needs neither Qt nor MRML."""

from __future__ import annotations

from ADAttributionLogic.preprocessing.quality import Check

#: What the logic layer's messages say to those who type commands, in words of the panel and the console.
_WORDS = {
    "say --accept-qc": "tick “Go on although a check did not pass” in step 1 (console: acceptQuality=True)",
    "say --registered no": "say so in the console (registered=False)",
    "(--brain-mask)": "(Brain mask, under More about the preparation; console: brainMask=)",
    "(--registration none)": "(Preparation: already registered)",
    "say --registration affine": "choose the preparation affine",
}


def inPanelWords(text):
    """A message without options of the command line."""
    for command, words in _WORDS.items():
        text = text.replace(command, words)
    return text


def failureText(quality):
    """Why nothing was explained, with the numbers and what to do."""
    failures = quality.failures
    return "\n".join(
        [
            f"The scan did not pass {len(failures)} of {len(quality.checks)} checks:",
            *(f"✗ {inPanelWords(str(check))}" for check in failures),
            "Nothing was explained. Press Check the preparation for the figure, and look at it.",
            f"To go on all the same, {_WORDS['say --accept-qc']}.",
        ]
    )


def checkLines(quality):
    """A run's checks as its provenance keeps them, those that did not pass first."""
    checks = [Check(**check) for check in quality["checks"]]
    failures = [check for check in checks if not check.passed]
    verdict = "All checks passed." if not failures else f"{len(failures)} of {len(checks)} checks did not pass:"
    ordered = sorted(checks, key=lambda check: check.passed)
    return [verdict, *(f"{'✓' if check.passed else '✗'} {inPanelWords(str(check))}" for check in ordered)]


def verdictOf(report):
    """Whether the checks of a report passed, as a sentence."""
    return checkLines(report.quality.describe())[0].rstrip(":.") + "."


def registeredText(report):
    """Whether the scan was registered already, with the numbers that say so."""
    because = report.because
    verdict = "is in the network's space already" if report.already_registered else "is not in the network's space"
    if because.get("decided") != "measured":
        return f"The scan {verdict}: not measured, but as you said."
    needed = because["needed"]
    moved = because["would_move_mm"]
    numbers = [
        f"similarity {because['similarity']:.2f} (at least {needed['similarity']:.2f})",
        f"covers {because['covers_the_template']:.0%} (at least {needed['covers_the_template']:.0%})",
    ]
    if moved is not None:
        numbers.append(f"a registration would move it by {moved:.1f} mm (at most {needed['would_move_mm']:.1f} mm)")
    return f"The scan {verdict}: {', '.join(numbers)}."


def reportLines(report):
    """A report as lines: verdict, checks, what was done, notes."""
    lines = [*checkLines(report.quality.describe()), registeredText(report)]
    if not report.already_registered:
        found = report.transform
        shift = sum(v * v for v in found["translation_mm"]) ** 0.5
        lines.append(
            f"{found['kind']} registration: turned by {found['rotation_degrees']:.0f}°, shifted by {shift:.0f} mm."
        )
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in report.seconds.items())
    lines.append(f"Seconds: {seconds}{' (done before; taken from the cache)' if report.from_cache else ''}")
    return [line for line in (*lines, *(inPanelWords(note) for note in report.notes)) if line]
