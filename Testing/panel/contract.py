"""Compares what the module uses of Slicer's widgets with what they really have (api_excerpt.json).

In PythonQt a misspelt signal connects to nothing, and a property that is called raises only when its line runs; so
the panel file and the source are read, and every access that can be followed to a class is looked up.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
MODULE = HERE.parents[1] / "ADAttribution"
UI_FILE = MODULE / "Resources" / "UI" / "ADAttribution.ui"
DYNAMIC_PROPERTIES = {"SlicerParameterName"}
PAGE_ATTRIBUTES = {"title", "toolTip"}

#: What methods return, where it matters: (class, method) → class.
RETURNS = {
    ("slicer.app", "layoutManager"): "slicer.app.layoutManager()",
    ("slicer.app", "userSettings"): "QSettings",
    ("slicer.app", "clipboard"): "QClipboard",
    ("slicer.app.layoutManager()", "plotWidget"): "qMRMLPlotWidget",
    ("qMRMLPlotWidget", "plotView"): "qMRMLPlotView",
    ("QTableWidget", "horizontalHeader"): "QHeaderView",
    ("QTableWidget", "verticalHeader"): "QHeaderView",
    ("QMenu", "addAction"): "QAction",
    ("QToolButton", "menu"): "QMenu",
    ("ctkCheckableComboBox", "model"): "QStandardItemModel",
    ("QFrame", "layout"): "QFormLayout",
    ("slicer.util", "loadUI"): "qMRMLWidget",
}


@dataclass(frozen=True)
class Entry:
    """What a class has."""

    attributes: frozenset[str]
    properties: dict[str, bool]
    signals: frozenset[str]
    slots: frozenset[str]


class Api:
    """The excerpt, with what is inherited filled in."""

    def __init__(self, path: Path = HERE / "api_excerpt.json") -> None:
        document = json.loads(path.read_text(encoding="utf-8"))
        self.modules = {name: frozenset(names) for name, names in document["modules"].items()}
        self.loaded = frozenset(document["loaded"])
        self.layouts = document["layouts"]
        self.classes: dict[str, Entry] = {}
        raw = document["classes"]
        for name, entry in raw.items():
            base = raw.get(entry["inherits"], {"attributes": (), "properties": {}, "signals": (), "slots": ()})
            self.classes[name] = Entry(
                frozenset([*entry["attributes"], *base["attributes"]]),
                {**base["properties"], **entry["properties"]},
                frozenset([*entry["signals"], *base["signals"]]),
                frozenset([*entry["slots"], *base["slots"]]),
            )


@dataclass
class Report:
    """What was found wrong, and how much was looked at."""

    problems: list[str] = field(default_factory=list)
    checked: int = 0


# ------------------------------------------------------------------------------------------------------ the panel file


def classes_in_ui(path: Path) -> set[str]:
    """Classes of all widgets and layouts of a panel."""
    root = ElementTree.parse(path).getroot()
    return {element.get("class", "") for kind in ("widget", "layout") for element in root.iter(kind)}


def widgets_in_ui(path: Path) -> dict[str, str]:
    """Class of each widget by its name."""
    return {w.get("name", ""): w.get("class", "") for w in ElementTree.parse(path).getroot().iter("widget")}


def check_ui(text: str, api: Api, parameters: set[str]) -> Report:
    """Check classes, properties, connections and parameter names of a panel."""
    report, root = Report(), ElementTree.fromstring(text)
    widgets = {w.get("name", ""): w.get("class", "") for w in root.iter("widget")}
    names = [w.get("name", "") for w in root.iter("widget")]
    report.problems += [f"two widgets are called {name}" for name in {n for n in names if names.count(n) > 1}]
    for widget in root.iter("widget"):
        _check_properties(widget, api, parameters, set(names), report)
    for connection in root.iter("connection"):
        part = {child.tag: child.text or "" for child in connection}
        for who, what, kind in (("sender", "signal", "signals"), ("receiver", "slot", "slots")):
            report.checked += 1
            entry = api.classes.get(widgets.get(part[who], ""))
            if entry is None or part[what] not in getattr(entry, kind):
                report.problems.append(f"connection: {part[who]} has no {what} {part[what]}")
    return report


def _check_properties(
    widget: ElementTree.Element, api: Api, parameters: set[str], names: set[str], report: Report
) -> None:
    name, kind = widget.get("name"), widget.get("class", "")
    if kind not in api.classes:
        report.problems.append(f"{name}: the class {kind} is unknown")
        return
    for element in widget.findall("attribute"):  # of a page, in the widget that holds it
        if element.get("name") not in PAGE_ATTRIBUTES:
            report.problems.append(f"{name}: a page has no {element.get('name')}")
    for element in widget.findall("property"):
        report.checked += 1
        key = element.get("name", "")
        if element.get("stdset") == "0":
            value = "".join(element.itertext()).strip()
            if key not in DYNAMIC_PROPERTIES:
                report.problems.append(f"{name}: unknown dynamic property {key}")
            elif value not in parameters:
                report.problems.append(f"{name}: the parameter node has no {value}")
        elif key == "buddy" and kind == "QLabel":  # of the file format, not of the class: becomes setBuddy()
            if "".join(element.itertext()).strip() not in names:
                report.problems.append(f"{name}: its buddy does not exist")
        elif not api.classes[kind].properties.get(key, False):
            report.problems.append(f"{name}: {kind} has no writable property {key}")


def parameters_in(source: str, wrapper: str = "ADAttributionParameterNode") -> set[str]:
    """Names of the parameters of the parameter node, those in packs as pack.name."""
    classes = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}

    def fields(name: str) -> dict[str, ast.expr]:
        return {
            s.target.id: s.annotation
            for s in classes[name].body
            if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
        }

    found: set[str] = set()
    for name, annotation in fields(wrapper).items():
        if isinstance(annotation, ast.Name) and annotation.id in classes:
            found |= {f"{name}.{inner}" for inner in fields(annotation.id)}
        else:
            found.add(name)
    return found


# ---------------------------------------------------------------------------------------------------------- the source


def check_source(source: str, api: Api, widgets: dict[str, str], name: str = "source") -> Report:
    """Check every access to widgets (``ui.name…``), Qt classes (``qt.Class``), slicer.app and slicer.util."""
    visitor = _Visitor(api, widgets, name)
    visitor.visit(ast.parse(source))
    return visitor.report


class _Visitor(ast.NodeVisitor):
    def __init__(self, api: Api, widgets: dict[str, str], name: str) -> None:
        self.api, self.widgets, self.name = api, widgets, name
        self.report = Report()
        self._known: dict[str, str] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._known = self._known, dict(self._known)
        for argument in node.args.args:
            kind = self._kind(argument.annotation) if argument.annotation is not None else None
            if kind is not None:
                self._known[argument.arg] = kind
        self.generic_visit(node)
        self._known = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for left, right in pairs:
                kind = self._kind(right)
                if isinstance(left, ast.Name):
                    self._known.pop(left.id, None)
                    if kind is not None:
                        self._known[left.id] = kind
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self._kind(node.value)
        if owner == "ui":
            self._look(node, node.attr in self.widgets, f"the panel has no widget {node.attr}")
        elif owner in self.api.modules:
            self._look(node, node.attr in self.api.modules[owner], f"{owner} has no {node.attr}")
        elif owner == "qt":
            self._look(node, node.attr in self.api.classes, f"{node.attr} is not in the excerpt")
        elif owner == "slicer.modules":
            self._look(node, node.attr in self.api.loaded, f"slicer.modules has no {node.attr}")
        elif owner is not None:
            self._check_access(node, owner)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            owner = self._kind(node.func.value)
            if owner in self.api.classes:
                if node.func.attr in self.api.classes[owner].properties:
                    self._wrong(node, f"{node.func.attr} of {owner} is a property and cannot be called")
                if node.func.attr == "connect":
                    self._check_signal(node, owner, node.args[0])
            elif node.func.attr.lstrip("_") == "connect" and len(node.args) >= 2:
                kind = self._kind(node.args[0])
                if kind in self.api.classes:
                    self._check_signal(node, kind, node.args[1])
        self.generic_visit(node)

    def _check_access(self, node: ast.Attribute, owner: str) -> None:
        entry = self.api.classes[owner]
        if isinstance(node.ctx, ast.Store):
            self._look(node, entry.properties.get(node.attr, False), f"{owner} has no writable property {node.attr}")
        else:
            known = node.attr in entry.attributes or node.attr in entry.properties
            self._look(node, known, f"{owner} has no attribute {node.attr}")

    def _check_signal(self, node: ast.Call, owner: str, signal: ast.expr) -> None:
        if isinstance(signal, ast.Constant):
            self._look(node, signal.value in self.api.classes[owner].signals, f"{owner} has no signal {signal.value}")

    def _kind(self, node: ast.expr) -> str | None:
        """The class of an expression, as far as it can be followed."""
        if isinstance(node, ast.Name):
            return node.id if node.id in ("ui", "qt") else self._known.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._kind_of_attribute(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = self._kind(node.func.value)
            if owner == "qt":
                return node.func.attr if node.func.attr in self.api.classes else None
            return RETURNS.get((owner or "", node.func.attr))
        return None

    def _kind_of_attribute(self, node: ast.Attribute) -> str | None:
        dotted = ast.unparse(node)
        if dotted in (*self.api.modules, "slicer.app", "slicer.modules"):
            return dotted
        if node.attr == "ui":
            return "ui"
        owner = self._kind(node.value)
        if owner == "ui":
            return self.widgets.get(node.attr)
        if owner == "qt":
            return node.attr if node.attr in self.api.classes else None
        return None

    def _look(self, node: ast.AST, fine: bool, problem: str) -> None:
        self.report.checked += 1
        if not fine:
            self._wrong(node, problem)

    def _wrong(self, node: ast.AST, problem: str) -> None:
        self.report.problems.append(f"{self.name}:{getattr(node, 'lineno', 0)}: {problem}")
