"""Options of methods that have no widget of their own in the panel: as text, checked, with their words. Needs no Qt.

The text is what is saved: ``lrp.epsilon = 1e-4; occlusion.signed = true``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.method_options import Option

#: Options that have a widget beside the method's check box.
WITH_WIDGET = {
    "lrp": ("rule", "beta"),
    "integrated-gradients": ("steps",),
    "smoothgrad": ("samples",),
    "occlusion": ("size", "stride"),
}

#: Voxel occlusion shows a coarse map soon and refines it for so long.
VOXEL_MINUTES = 10

#: What the panel asks for where nothing is said, if it is not the method's own default.
PANEL_DEFAULTS = {("voxel-occlusion", "minutes"): VOXEL_MINUTES}


@dataclass(frozen=True)
class DescribedMethod:
    """What the worker says of a method.

    Attributes
    ----------
    name, title : str
    options : tuple of Option
    """

    name: str
    title: str
    options: tuple[Option, ...]

    def option(self, name):
        """An option by its name.

        Raises
        ------
        UnknownNameError
        """
        known = {option.name: option for option in self.options}
        if name not in known:
            raise UnknownNameError(f"option of {self.name}", name, known)
        return known[name]

    def offered(self):
        """The options that have no widget of their own."""
        own = WITH_WIDGET.get(self.name, ())
        return [option for option in self.options if option.name not in own]

    def default(self, option):
        """What is asked for where nothing is said."""
        return PANEL_DEFAULTS.get((self.name, option.name), option.default)


def describedMethods(document):
    """Methods by name, of the worker's answer to ``describe``."""
    return {
        entry["name"]: DescribedMethod(
            entry["name"], entry["title"], tuple(Option.from_document(option) for option in entry["options"])
        )
        for entry in document["methods"]
    }


def parseOptions(text):
    """Options of methods from ``lrp.epsilon = 1e-4; occlusion.signed = true``: {method: {option: value}}.

    Raises
    ------
    UsageError
    """
    found = {}
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        name, equals, value = part.partition("=")
        method, dot, option = name.strip().partition(".")
        if not (equals and dot and option):
            raise UsageError(f"{part!r} is no option; write method.option = value, for example lrp.epsilon = 1e-4.")
        try:
            value = json.loads(value)
        except ValueError:
            value = value.strip()
        found.setdefault(method, {})[option.strip().replace("-", "_")] = value
    return found


def formatOptions(options):
    """The inverse of parseOptions().

    Raises
    ------
    UsageError
        A value with a semicolon, which separates options.
    """
    parts = []
    for method, values in options.items():
        for option, value in values.items():
            written = _written(value)
            if ";" in written:
                raise UsageError(f"Option {option} of {method} cannot hold a semicolon, but is {value!r}.")
            parts.append(f"{method}.{option} = {written}")
    return "; ".join(parts)


def _written(value):
    """As JSON only where the bare text would be read as something else."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value if value == value.strip() and value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def changed(text, method, option, value):
    """The text with one option changed; an option at its default is left out.

    Raises
    ------
    UsageError
        The value is refused, or the text cannot be read.
    """
    given = parseOptions(text)
    checked = option.check(method.name, value)
    values = given.setdefault(method.name, {})
    values.pop(option.name, None)
    if checked != method.default(option):
        values[option.name] = checked
    return formatOptions({name: entries for name, entries in given.items() if entries})


def checkOptions(text, methods):
    """Check all options of a text.

    Raises
    ------
    UsageError, UnknownNameError
        With the option's name and what is allowed.
    """
    for name, values in parseOptions(text).items():
        if name not in methods:
            raise UnknownNameError("method", name, methods)
        for option, value in values.items():
            methods[name].option(option).check(name, value)


def choicesOf(method, option):
    """Texts and values to choose from; None for what is typed."""
    if option.kind is bool:
        pairs = [("no", False), ("yes", True)]
        if option.default is None:
            pairs.insert(0, ("as suits the network", None))
    elif option.choices:
        pairs = [(choice, choice) for choice in option.choices]
    else:
        return None
    default = method.default(option)
    return [(f"{text} (default)" if value == default else text, value) for text, value in pairs]


def defaultText(method, option):
    """The default as a grey text in an empty field."""
    default = method.default(option)
    return "none" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def helpText(option):
    """What an option does, and what it may be."""
    kinds = {int: "whole number", float: "number", bool: "", str: ""}
    allowed = " ".join(filter(None, (kinds[option.kind], option.range_text())))
    return f"{option.help} ({allowed})" if allowed else option.help


def methodRequest(entry):
    """(name, options) of a name, a pair or a dict with both.

    Raises
    ------
    UsageError
    """
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and "name" in entry:
        return entry["name"], dict(entry.get("options", {}))
    if isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], str):
        return entry[0], dict(entry[1])
    raise UsageError(f"{entry!r} is no method: give its name, or its name and a dict of options.")
