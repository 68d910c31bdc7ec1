"""Covariates as people write them: ``age=71, sex=F``."""

from __future__ import annotations

from collections.abc import Iterable

from ADAttributionLogic.errors import UsageError


def parse_covariates(texts: Iterable[str]) -> dict[str, str]:
    """Names and values of texts such as ``age=71`` or ``age=71, sex=F``.

    Raises
    ------
    UsageError
        No ``=``, no name or no value, or a name twice.
    """
    found: dict[str, str] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        if not part:
            continue
        name, _, value = (piece.strip() for piece in part.partition("="))
        if not name or not value:
            raise UsageError(f"A covariate is written NAME=VALUE, such as age=71, but this is {part!r}.")
        if name in found:
            raise UsageError(f"The covariate {name} is given twice, as {found[name]} and as {value}.")
        found[name] = value
    return found
