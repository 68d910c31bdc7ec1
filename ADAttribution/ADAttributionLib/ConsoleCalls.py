"""What users call from Slicer's console: each call goes to the explainer, and so to the worker. Needs no Qt."""

from __future__ import annotations

from ADAttributionLib.RunAnswer import answerOf
from ADAttributionLib.StudyNodes import openStudy


class ConsoleCalls:
    """Part of the module's logic, which has the ``explainer``; see ADAttributionLib.ExplainLogic for all options."""

    def explain(self, volumeNode, **options):
        """Explain a volume node; see ADAttributionLib.ExplainLogic. Returns the Run, or with wait=False a Request."""
        return self.explainer.explain(volumeNode, **options)

    def prepare(self, volumeNode, *arguments, **options):
        """Register and check a scan, without explaining it; returns the PreparationReport, or a Request."""
        return self.explainer.prepare(volumeNode, *arguments, **options)

    def openResult(self, path, *arguments, **options):
        """Put a result of the command line, or a row of a batch, into the scene; see ADAttributionLib.ExplainLogic."""
        return self.explainer.openResult(path, *arguments, **options)

    def exportReport(self, run, path, **options):
        """Write a run as one HTML file; see ADAttributionLib.ExplainLogic."""
        return self.explainer.exportReport(answerOf(run), path, **options)

    def resultsIn(self, path):
        """Names of the scans of a batch, and how each ended; empty for a single result."""
        return self.explainer.resultsIn(path)

    def explainFolder(self, inputFolder, outputFolder, **options):
        """Explain all scans of a folder or CSV; see ADAttributionLib.ExplainLogic."""
        return self.explainer.explainFolder(inputFolder, outputFolder, **options)

    def buildReference(self, tables, outputFolder, **options):
        """Build a reference cohort of the controls of a table; see ADAttributionLib.ReferenceJob."""
        return self.explainer.buildReference(tables, outputFolder, **options)

    def study(self, table, results, outputFolder, **options):
        """Compare two groups of a table, from results of explainFolder(); see ADAttributionLib.CohortCalls."""
        return self.explainer.study(table, results, outputFolder, **options)

    def openStudy(self, path):
        """Put a study's maps and tables, or a reference's, into one folder of the scene; returns its StudyNodes."""
        return openStudy(self.explainer.scene, path)

    def addSimulatedSubject(self, label="AD"):
        """Add a simulated patient ("AD") or control ("CN") to the scene."""
        return self.explainer.addSimulatedSubject(label)

    def installNetwork(self, name, source=None, **options):
        """Install a registered network (it downloads: ask before); see ADAttributionLib.ExplainLogic."""
        return self.explainer.installNetwork(name, source, **options)

    def createPackage(self, source, answers, **options):
        """Make a model package of a network of the user's; see ADAttributionLib.ExplainLogic."""
        return self.explainer.createPackage(source, answers, **options)
