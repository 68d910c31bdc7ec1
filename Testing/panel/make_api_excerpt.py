"""Make ``api_excerpt.json`` anew: ``python Testing/panel/make_api_excerpt.py PATH/OF/slicer-api.json``.

The full list was read from a running Slicer 5.12.3; the excerpt holds the classes that the module uses.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BASE = "QWidget"

#: Beside the classes in the panel: what the module's code makes or gets from others.
MORE_CLASSES = (
    "QWidget",
    "QTimer",
    "QSettings",
    "QClipboard",
    "QFileDialog",
    "QDialog",
    "QDialogButtonBox",
    "qMRMLPlotWidget",
    "qMRMLPlotView",
    "QLabel",
    "QStandardItemModel",
    "QPixmap",
    "QMenu",
    "QAction",
    "QColor",
    "QHeaderView",
)
#: Not in the list, which holds widgets; used by modules that come with Slicer (DICOMLib, Data Probe).
VALUE_CLASSES = {"QTableWidgetItem": ["setForeground", "setToolTip"], "QBrush": []}
#: Signals of classes that the list could not make one of; they stand among the attributes without their arguments.
MORE_SIGNALS = {"QHeaderView": ["sectionClicked(int)"]}
INSTANCES = (
    "slicer.app",
    "slicer.app.layoutManager()",
)
MODULES = ("slicer.util", "slicer.ScriptedLoadableModule", "slicer.parameterNodeWrapper")


def excerpt(full: dict[str, Any], classes: set[str]) -> dict[str, Any]:
    """The part of the list that the module needs; what every widget has is kept once."""
    base = full["classes"][BASE]
    wanted = {name: full["classes"][name] for name in sorted(classes | set(MORE_CLASSES))}
    wanted |= {name: full["instances"][name] for name in INSTANCES}
    for name, signals in MORE_SIGNALS.items():
        assert {signal.split("(")[0] for signal in signals} <= set(wanted[name]["attributes"])
        wanted[name] = {**wanted[name], "signals": signals}
    bare = {"inherits": "", "properties": {}, "signals": [], "slots": []}
    values = {name: {**bare, "attributes": attributes} for name, attributes in VALUE_CLASSES.items()}
    return {
        "about": full["about"],
        "classes": values | {name: _short(entry, None if name == BASE else base) for name, entry in wanted.items()},
        "modules": {name: sorted(full[name]) for name in MODULES},
        "loaded": full["modules"],
        "layouts": full["layouts"],
    }


def _short(entry: dict[str, Any], base: dict[str, Any] | None) -> dict[str, Any]:
    properties = {name: bool(p["writable"]) for name, p in entry.get("properties", {}).items()}
    short = {
        "attributes": set(entry["attributes"]),
        "properties": properties,
        "signals": set(entry.get("signals", ())),
        "slots": set(entry.get("slots", ())),
    }
    inherits = base is not None and set(base["attributes"]) <= short["attributes"]
    if inherits:
        for key in ("attributes", "signals", "slots"):
            short[key] -= set(base[key])
        short["properties"] = {n: w for n, w in properties.items() if n not in base["properties"]}
    public = sorted(name for name in short["attributes"] if not name.startswith("_"))
    return {
        "inherits": BASE if inherits else "",
        "attributes": public,
        "properties": short["properties"],
        "signals": sorted(short["signals"]),
        "slots": sorted(name for name in short["slots"] if not name.startswith("_")),
    }


def main() -> int:
    sys.path.insert(0, str(HERE))
    from contract import UI_FILE, classes_in_ui

    full = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = excerpt(full, classes_in_ui(UI_FILE))
    lines = [f'"about": {json.dumps(found["about"], ensure_ascii=False)}']
    for part in ("modules", "loaded", "layouts"):
        lines.append(f'"{part}": {json.dumps(found[part])}')
    classes = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in found["classes"].items())
    lines.append(f'"classes": {{\n{classes}\n}}')
    (HERE / "api_excerpt.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
