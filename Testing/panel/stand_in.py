"""Widgets to run the panel's code against where there is no Qt: with exactly what a running Slicer was seen to have.

Only what the sections rely on behaves (values, items, signals); anything that the real class lacks raises
AttributeError, and calling a property raises TypeError, as in PythonQt. The MRML behind them is real.
"""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree import ElementTree

from contract import UI_FILE, Api

#: Property → signal that tells of its change.
_CHANGES = {
    "value": ("valueChanged(double)", "valueChanged(int)"),
    "checked": ("toggled(bool)",),
    "currentIndex": ("currentIndexChanged(int)",),
    "currentRow": ("currentRowChanged(int)",),
    "text": ("textChanged(QString)",),
    "currentPath": ("currentPathChanged(QString)",),
    "currentNode": ("currentNodeChanged(vtkMRMLNode*)",),
}


class StandIn:
    """A widget of a class."""

    def __init__(self, kind: str, api: Api) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "entry", api.classes[kind])
        object.__setattr__(self, "values", {"currentIndex": -1, "currentRow": -1})
        object.__setattr__(self, "slots", {})
        object.__setattr__(self, "items", [])
        object.__setattr__(self, "ticks", {})
        object.__setattr__(self, "api", api)

    def __setattr__(self, name: str, value: object) -> None:
        if not self.entry.properties.get(name, False):
            raise AttributeError(f"{self.kind} has no writable property {name}")
        self._set(name, value)

    def __getattr__(self, name: str) -> object:
        entry, values = self.entry, self.values
        if name in entry.properties:
            if name == "currentData":
                index = values["currentIndex"]
                return self.items[index][1] if 0 <= index < len(self.items) else None
            return len(self.items) if name == "count" else values.get(name, "")
        if name not in entry.attributes:
            raise AttributeError(f"{self.kind} has no attribute {name}")
        behaviour = getattr(type(self), f"do_{name}", None)
        if behaviour is not None:
            return lambda *arguments: behaviour(self, *arguments)
        if name.startswith("set") and name[3:4].isupper():
            return lambda value, *_: self._set(name[3].lower() + name[4:], value)
        return lambda *_: None

    def _set(self, name: str, value: object) -> None:
        before = self.values.get(name)
        self.values[name] = value
        if before != value:
            for signal in _CHANGES.get(name, ()):
                self.emit(signal, value)

    def emit(self, signal: str, *arguments: object) -> None:
        """Call what is connected to a signal."""
        for slot in self.slots.get(signal, ()):
            slot(*arguments)

    def do_connect(self, signal: str, slot: object) -> bool:
        if signal not in self.entry.signals:
            return False
        self.slots.setdefault(signal, []).append(slot)
        return True

    def do_currentNode(self) -> object:
        return self.values.get("currentNode")

    def do_addItem(self, text: str, data: object = None) -> None:
        self.items.append((text, data))
        # A real combo box shows its first item; a list shows none.
        if self.values["currentIndex"] < 0 and "Combo" in self.kind:
            self._set("currentIndex", 0)

    def do_clear(self) -> None:
        self.items.clear()
        self.ticks.clear()
        self._set("currentIndex", -1)
        self._set("currentRow", -1)

    def do_findData(self, data: object) -> int:
        return next((i for i, (_, known) in enumerate(self.items) if known == data), -1)

    def do_model(self) -> StandIn:
        return self.values.setdefault("model", StandIn("QStandardItemModel", self.api))

    def do_index(self, row: int, column: int) -> tuple[int, int]:
        return row, column

    def do_checkState(self, index: tuple[int, int]) -> int:
        return self.ticks.get(index[0], 0)

    def do_setCheckState(self, index: tuple[int, int], state: int) -> None:
        assert 0 <= index[0] < len(self.items)
        before = self.do_checkState(index)
        self.ticks[index[0]] = state
        if state != before:
            self.emit("checkedIndexesChanged()")

    def do_layout(self) -> StandIn:
        return self.values.setdefault("layout", StandIn("QFormLayout", self.api))

    def do_currentRow(self) -> int:
        return self.values.get("chosenRow", -1)


def panel(api: Api) -> SimpleNamespace:
    """All widgets of the panel by name, with the properties that the panel file gives them."""
    found = {}
    for element in ElementTree.parse(UI_FILE).getroot().iter("widget"):
        widget = StandIn(element.get("class", ""), api)
        for entry in element.findall("property"):
            if entry.get("stdset") != "0":
                widget.values[entry.get("name", "")] = _value(entry[0])
        found[element.get("name", "")] = widget
    return SimpleNamespace(**found)


def _value(element: ElementTree.Element) -> object:
    text = "".join(element.itertext()).strip()
    kinds = {"bool": lambda t: t == "true", "number": int, "double": float}
    return kinds.get(element.tag, str)(text)
