"""A text of many lines that shows its first one, and the rest when asked. Needs no Qt of its own."""

from __future__ import annotations

import html

from ADAttributionLib.Signals import connect

_MOST_CHARACTERS = 90


class FoldedText:
    """Folds the text of a label.

    Parameters
    ----------
    label : QLabel
        With links that mouse and keyboard reach.
    """

    def __init__(self, label):
        self._label = label
        self._brief = self._full = ""
        self._isOpen = False
        connect(label, "linkActivated(QString)", self.onLink)

    def show(self, brief, full=""):
        """Show a text; another one than before is folded again.

        Parameters
        ----------
        brief : str
            Rich text that is always in sight.
        full : str
            Rich text instead of it when unfolded; "" when there is no more.
        """
        if (brief, full) != (self._brief, self._full):
            self._brief, self._full, self._isOpen = brief, full, False
        self._draw()

    def onLink(self, _link):
        self._isOpen = not self._isOpen
        self._draw()

    def _draw(self):
        text = self._full if self._isOpen else self._brief
        if self._full:
            word = "less" if self._isOpen else "more"
            text = f"{text} <a href='{word}'>{word}</a>"
        self._label.text = text
        self._label.visible = bool(text)


def firstSentence(text, most=_MOST_CHARACTERS):
    """The first sentence of a plain text as rich text, cut between words where it is long."""
    sentence, stop, _ = str(text).strip().partition(". ")
    sentence = sentence.rstrip(".") + ("." if stop or str(text).rstrip().endswith(".") else "")
    if len(sentence) > most:
        sentence = sentence[: most + 1].rsplit(" ", 1)[0] + "…"
    return html.escape(sentence)
