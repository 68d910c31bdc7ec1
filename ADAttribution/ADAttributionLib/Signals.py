"""Connects widgets to slots. Needs no Qt."""

from __future__ import annotations


def connected(result, signal):
    """A signal that does not exist is not an error in PythonQt; make it one."""
    if not result:
        raise RuntimeError(f"There is no signal {signal}.")


def connect(widget, signal, slot):
    """Call a slot with every signal of a widget."""
    connected(widget.connect(signal, slot), signal)
