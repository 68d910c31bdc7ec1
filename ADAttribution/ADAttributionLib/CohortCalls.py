"""Many scans at once: batches, references of controls, and group studies, asked of the worker. Needs no Qt."""

from __future__ import annotations

import os
from pathlib import Path

from ADAttributionLib.MethodOptions import methodRequest
from ADAttributionLib.Preparation import Preparation
from ADAttributionLib.ReferenceJob import referenceJob
from ADAttributionLib.References import comparisonJob
from ADAttributionLogic.errors import UnknownNameError, UsageError

DEFAULT_MODEL = "simulated-atrophy"

#: Options of a study that are handed on, by what the worker calls them.
_STUDY = {name: name for name in ("positive", "negative", "covariates", "by", "volumes", "threshold")}
_STUDY |= {name: name for name in ("permutations", "resamples", "seed", "overwrite")} | {"withMaps": "with_maps"}


class CohortCalls:
    """Part of ExplainLogic, which has ``_ask()``."""

    def explainFolder(
        self,
        inputFolder,
        outputFolder,
        model=DEFAULT_MODEL,
        methods=("lrp",),
        atlas="aal",
        target="positive",
        start=None,
        device="auto",
        reference=None,
        adjusted=False,
        wait=True,
        onProgress=None,
        onDone=None,
        onError=None,
        **preparation,
    ):
        """Explain all scans of a folder, or of a CSV with a column ``scan``; see ADAttributionLogic.batch.explaining.

        `preparation` is as for explain(), without a brain mask; a scan whose quality checks fail is a failed scan with
        the numbers in its row, unless acceptQuality is True. `reference` is as for explain(); `adjusted` takes the
        covariates from columns of the CSV.

        Returns a dict with ``summary`` (path), ``rows``, ``done``, ``failed`` and ``kept``; or a Request.
        """
        wanted = Preparation(**preparation)
        if wanted.brainMask is not None:
            raise UsageError("One brain mask does not fit many scans: leave it out, and the brain is searched for.")
        job = {
            "preparation": wanted.asked() if wanted.isWanted else None,
            "input": os.fspath(inputFolder),
            "output": os.fspath(outputFolder),
            "model": os.fspath(model),
            "methods": [dict(zip(("name", "options"), methodRequest(m), strict=True)) for m in methods],
            "atlas": atlas and {"name": os.fspath(atlas)},
            "target": target,
            "start": start,
            "device": device,
            "adjusted": adjusted,
            **comparisonJob(reference),
        }
        return self._ask("batch", job, wait, onProgress, onDone, onError)

    def buildReference(self, tables, outputFolder, wait=True, onProgress=None, onDone=None, onError=None, **options):
        """Build a reference cohort of the controls of a table, or let it grow; see ADAttributionLib.ReferenceJob.

        Returns a dict with ``folder``, ``n`` (controls in it), ``taken`` (of them now) and ``notes``; or a Request.
        """
        return self._ask("reference", referenceJob(tables, outputFolder, **options), wait, onProgress, onDone, onError)

    def study(self, table, results, outputFolder, wait=True, onProgress=None, onDone=None, onError=None, **options):
        """Compare two groups of a table, from the results of explainFolder() on it; see ADAttributionLogic.study.

        Parameters
        ----------
        table : path-like
            CSV or TSV of the subjects, or a BIDS participants.tsv.
        results : path-like, sequence of path-like, or dict of str to path-like
            Folders of batches; several networks or repeats by names of their own.
        outputFolder : path-like
            Must not exist.
        options
            positive, negative and covariates (sequences of str), by, volumes, threshold, permutations, resamples, seed,
            withMaps and overwrite, as ``ad-attribution study --help`` says.

        Returns a dict with ``folder`` (which openResult of the panel, or openStudy(), puts into the scene), ``page``,
        ``subjects`` and ``notes``; or a Request.
        """
        job = studyJob(table, results, outputFolder, **options)
        return self._ask("study", job, wait, onProgress, onDone, onError)


def studyJob(table, results, outputFolder, **options):
    """What is asked of the worker for a study: see CohortCalls.study."""
    for name in options:
        if name not in _STUDY:
            raise UnknownNameError("option of a study", name, _STUDY)
    if isinstance(results, dict):
        named = list(results.items())
    else:
        several = [results] if isinstance(results, (str, os.PathLike)) else list(results)
        named = [(Path(folder).resolve().name, folder) for folder in several]
    given = {name: list(value) if isinstance(value, (tuple, set)) else value for name, value in options.items()}
    if isinstance(given.get("volumes"), os.PathLike):
        given["volumes"] = os.fspath(given["volumes"])
    return {
        "table": os.fspath(table),
        "results": [[name, os.fspath(folder)] for name, folder in named],
        "output": os.fspath(outputFolder),
        **{_STUDY[name]: value for name, value in given.items() if value is not None},
    }
