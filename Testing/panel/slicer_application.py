"""What the module's own file needs of a running Slicer, so that its widget can be used as a user does.

The scene, its nodes and events, slicer.util and the worker process are real; widgets are those of stand_in.py. Timers
run when the test lets them (see `rest`).
"""

from __future__ import annotations

import ast
import contextlib
import enum
import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from xml.etree import ElementTree

import slicer
import slicer.util
import vtk
from contract import MODULE, UI_FILE, Api
from stand_in import StandIn, panel


class Pack:
    """A parameter pack: what is set in it is set in its parameter node."""

    def __init__(self, values: dict[str, object], onChange: Callable[[], object]) -> None:
        self.__dict__.update(values)
        self.__dict__["_onChange"] = onChange

    def __setattr__(self, name: str, value: object) -> None:
        if self.__dict__[name] != value:
            self.__dict__[name] = value
            self._onChange()


def parameterNodeWrapper(cls: type) -> type:
    """Typed access to a parameter node, bound to widgets: as Slicer's, but that the values are not saved."""
    kinds, kept = typing.get_type_hints(cls), {}

    class Wrapper:
        def __init__(self, node: slicer.vtkMRMLScriptedModuleNode) -> None:
            self.__dict__["node"] = node
            if node not in kept:
                packs = {
                    name: Pack({n: getattr(kind, n) for n in typing.get_type_hints(kind)}, node.Modified)
                    for name, kind in kinds.items()
                    if not hasattr(cls, name)
                }
                kept[node] = {name: getattr(cls, name, None) for name in kinds} | packs
            self.__dict__["values"] = kept[node]

        def __getattr__(self, name: str) -> object:
            value = self.values[name]
            isGone = isinstance(value, slicer.vtkMRMLNode) and value.GetScene() is None
            return None if isGone else value

        def __setattr__(self, name: str, value: object) -> None:
            if self.values[name] is not value and self.values[name] != value:
                self.values[name] = value
                self.node.Modified()

        def AddObserver(self, event: object, callback: Callable, priority: float = 0.0) -> int:
            return self.node.AddObserver(event, callback, priority)

        def RemoveObserver(self, tag: int) -> None:
            self.node.RemoveObserver(tag)

        def StartModify(self) -> int:
            return self.node.StartModify()

        def EndModify(self, before: int) -> None:
            self.node.EndModify(before)

        def connectGui(self, ui: SimpleNamespace) -> int:
            bound = [Bound(self, getattr(ui, widget), name) for widget, name in parameters_of_widgets().items()]

            def show(_caller: object = None, _event: object = None) -> None:
                for entry in bound:
                    entry.show()

            show()
            self.__dict__["bound"], tag = bound, self.node.AddObserver(vtk.vtkCommand.ModifiedEvent, show)
            return tag

        def disconnectGui(self, tag: int) -> None:
            self.node.RemoveObserver(tag)
            for entry in self.bound:
                entry.isConnected = False

    return Wrapper


class Bound:
    """A parameter and its widget; the kinds of widgets are those of the panel."""

    def __init__(self, wrapper: object, widget: StandIn, name: str) -> None:
        self._owner, _, self._field = self._place(wrapper, name)
        self._widget, self.isConnected = widget, True
        value = self.read()
        self._choices = list(type(value)) if isinstance(value, enum.Enum) else []
        if self._choices and not widget.count:
            for choice in self._choices:
                widget.addItem(choice.label(), choice.name)
        self._property = next(
            p
            for p in ("currentIndex" if self._choices else "checked" if isinstance(value, bool) else "value", "text")
            if p in widget.entry.properties or widget.kind == "qMRMLNodeComboBox"
        )
        for signal in (
            *("currentIndexChanged(int)", "toggled(bool)", "valueChanged(int)", "valueChanged(double)"),
            *("textChanged(QString)", "currentNodeChanged(vtkMRMLNode*)"),
        ):
            widget.connect(signal, self._take)

    @staticmethod
    def _place(wrapper: object, name: str) -> tuple[object, str, str]:
        pack, dot, field = name.rpartition(".")
        return (getattr(wrapper, pack) if dot else wrapper), dot, field

    def read(self) -> object:
        return getattr(self._owner, self._field)

    def show(self) -> None:
        if not self.isConnected:
            return
        value = self.read()
        if self._widget.kind == "qMRMLNodeComboBox":
            self._widget.setCurrentNode(value)
        else:
            self._widget._set(self._property, self._choices.index(value) if self._choices else value)

    def _take(self, value: object) -> None:
        if self.isConnected and not (self._choices and not 0 <= value < len(self._choices)):
            setattr(self._owner, self._field, self._choices[value] if self._choices else value)


def parameters_of_widgets() -> dict[str, str]:
    """Name of the parameter of each widget that has one."""
    found = {}
    for widget in ElementTree.parse(UI_FILE).getroot().iter("widget"):
        for entry in widget.findall("property"):
            if entry.get("name") == "SlicerParameterName":
                found[widget.get("name", "")] = "".join(entry.itertext()).strip()
    return found


class Application:
    """The panel's widget in a scene of its own.

    Attributes
    ----------
    widget : ADAttributionWidget
    ui : namespace of widgets
    """

    def __init__(self, scene: slicer.vtkMRMLScene, monkeypatch: object) -> None:
        self._pending: list[Callable[[], object]] = []
        self.settings: dict[str, object] = {}
        self.files: list[str] = []
        self.ui = panel(Api())
        for name, module in self._modules(scene).items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(sys.modules["ADAttributionLib"], "QtSeam", self._seam(), raising=False)
        for name, value in (("mrmlScene", scene), ("app", self._app()), ("modules", SimpleNamespace())):
            monkeypatch.setattr(slicer, name, value, raising=False)
        monkeypatch.setattr(slicer.util, "loadUI", lambda _path: StandIn("qMRMLWidget", Api()))
        monkeypatch.setattr(slicer.util, "childWidgetVariables", lambda _widget: self.ui)
        monkeypatch.delitem(sys.modules, "ADAttribution", raising=False)
        self.module = importlib.import_module("ADAttribution")
        self.parent = SimpleNamespace(isEntered=True)
        self.widget = self.module.ADAttributionWidget(self.parent)
        self.widget.setup()

    def rest(self) -> None:
        """Let the timers run that wait for the user to rest."""
        while self._pending:
            self._pending.pop(0)()

    def wait(self, condition: Callable[[], bool], rounds: int = 12000) -> None:
        """Let the worker answer until something has happened."""
        import time

        for _ in range(rounds):
            self.widget.logic.explainer.poll()
            self.rest()
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError(self.ui.statusLabel.text)

    def _seam(self) -> SimpleNamespace:
        def restTimer(_milliseconds: int, callback: Callable) -> SimpleNamespace:
            def start() -> None:
                if callback not in self._pending:
                    self._pending.append(callback)

            return SimpleNamespace(start=start, stop=lambda: None)

        # What the seam does with Qt alone does nothing here; what it must answer is answered.
        tree = ast.parse((MODULE / "ADAttributionLib" / "QtSeam.py").read_text(encoding="utf-8"))
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        answers = {
            "makeRestTimer": restTimer,
            "makeTimer": lambda _milliseconds, _callback: SimpleNamespace(stop=lambda: None),
            "setting": lambda name, default="": self.settings.get(name, default),
            "listSetting": lambda name: list(self.settings.get(name, ())),
            "setSetting": self.settings.__setitem__,
            "workerInterpreter": lambda chosen="": chosen or sys.executable,
            "chooseFile": lambda _title, _filters: self.files.pop(0) if self.files else "",
        }
        assert set(answers) <= set(names)
        return SimpleNamespace(**dict.fromkeys(names, lambda *_: None) | answers)

    @staticmethod
    def _app() -> SimpleNamespace:
        return SimpleNamespace(connect=lambda *_: True, layoutManager=lambda: None, processEvents=lambda: None)

    @staticmethod
    def _modules(scene: slicer.vtkMRMLScene) -> dict[str, types.ModuleType]:
        def module(name: str, **contents: object) -> types.ModuleType:
            made = types.ModuleType(name)
            vars(made).update(contents)
            return made

        class Widget:
            def __init__(self, parent: object = None) -> None:
                self.parent, self.layout = parent, SimpleNamespace(addWidget=lambda *_: None)

            def setup(self) -> None:
                pass

            def resourcePath(self, name: str) -> str:
                return str(MODULE / "Resources" / name)

        class Logic:
            def getParameterNode(self) -> slicer.vtkMRMLScriptedModuleNode:
                node = scene.GetSingletonNode("ADAttribution", "vtkMRMLScriptedModuleNode")
                if node is None:
                    node = slicer.vtkMRMLScriptedModuleNode()
                    node.SetSingletonTag("ADAttribution")
                    node = scene.AddNode(node)
                return node

        return {
            "slicer.i18n": module("slicer.i18n", tr=lambda text: text, translate=lambda _context, text: text),
            "slicer.parameterNodeWrapper": module(
                "slicer.parameterNodeWrapper",
                WithinRange=lambda low, high: (low, high),
                parameterNodeWrapper=parameterNodeWrapper,
                parameterPack=lambda cls: cls,
            ),
            "slicer.ScriptedLoadableModule": module(
                "slicer.ScriptedLoadableModule",
                ScriptedLoadableModule=object,
                ScriptedLoadableModuleLogic=Logic,
                ScriptedLoadableModuleTest=object,
                ScriptedLoadableModuleWidget=Widget,
            ),
        }


@contextlib.contextmanager
def running(scene: slicer.vtkMRMLScene, monkeypatch: object) -> Iterator[Application]:
    """The panel, opened; its worker ends with it."""
    application = Application(scene, monkeypatch)
    try:
        yield application
    finally:
        application.widget.cleanup()
