"""What is asked of a network where nobody says which method: what its card recommends, with its measured figures."""

from __future__ import annotations

from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.explanation import MethodRequest
from ADAttributionLogic.networks.packages import Model

#: For networks whose card recommends nothing.
USUAL = "lrp"


def recommended(model: Model) -> MethodRequest:
    """The method of the model's card with its options; LRP where the card recommends none.

    Raises
    ------
    UnknownNameError, UsageError
        The card recommends a method or an option that does not exist.
    """
    entry = model.card.get("recommended")
    if entry is None:
        return MethodRequest(USUAL)
    options = dict(entry.get("options", {}))
    get_method(entry["method"]).complete(options)
    return MethodRequest(str(entry["method"]), options)


def sentence(model: Model) -> str:
    """Why this method, for users; "" where the card recommends none."""
    entry = model.card.get("recommended")
    if entry is None:
        return ""
    options = ", ".join(f"{name} {value}" for name, value in entry.get("options", {}).items())
    asked = f"{entry['method']} ({options})" if options else entry["method"]
    return f"No method was chosen: {asked}, which the card of {model.title} recommends. {entry['why']}"
