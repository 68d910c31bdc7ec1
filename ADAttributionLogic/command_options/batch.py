"""What is asked of every scan, as options that ``batch`` and ``bids`` share."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.command_options.check import add_check_options, check_request
from ADAttributionLogic.command_options.identifiers import add_identifiers
from ADAttributionLogic.command_options.preparation import (
    add_preprocessing_options,
    preprocessing_options,
    wants_preprocessing,
)
from ADAttributionLogic.command_options.reference import add_reference_options, asked_comparison
from ADAttributionLogic.command_options.start import add_start_options
from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.atlas.atlas import Atlas
    from ADAttributionLogic.batch.question import BatchOptions
    from ADAttributionLogic.explain import MethodRequest


def add_question_options(command: Any, default_registration: str) -> None:
    """Network, methods, atlas, comparison, checks, preparation, and what is written."""
    command.add_argument("--model", default="simulated-atrophy", help="as for explain (default: %(default)s)")
    command.add_argument(
        "--method",
        action="append",
        dest="methods",
        metavar="METHOD[:OPTION=VALUE,…]",
        help="may be repeated, e.g. lrp:beta=0.5 (default: lrp)",
    )
    command.add_argument("--atlas", default="aal", help="as for explain (default: %(default)s)")
    command.add_argument("--grouping", metavar="NAME", help="as for explain")
    command.add_argument("--target", default="positive", help="as for explain (default: %(default)s)")
    add_start_options(command, "as for explain")
    command.add_argument("--output", choices=("softmax", "sigmoid", "score"), help="of a bare file, as for explain")
    command.add_argument("--device", default="auto", help="as for explain (default: %(default)s)")
    command.add_argument("--no-figure", action="store_true", help="write no figures")
    command.add_argument(
        "--space", choices=("model", "native"), default="model", help="as for explain (default: %(default)s)"
    )
    add_reference_options(command, many_scans=True)
    command.add_argument(
        "--no-spread", action="store_true", help="do not measure how far the answer moves with the scan's placement"
    )
    command.add_argument("--no-report", action="store_true", help="write no reports (HTML)")
    add_identifiers(command)
    add_check_options(command, "none")
    add_preprocessing_options(command, default_registration, many_scans=True)
    command.set_defaults(replace_non_finite=None)


def asked_options(options: argparse.Namespace, private: bool = False) -> BatchOptions:
    """The same as typed, without the folder of prepared scans.

    Raises
    ------
    UsageError
    """
    from ADAttributionLogic.batch.question import BatchOptions
    from ADAttributionLogic.preparation import Preparation

    preparation = None
    if wants_preprocessing(options):
        preparation = Preparation(preprocessing_options(options), options.space, options.accept_qc)
    return BatchOptions(
        [parse_method(text) for text in options.methods or ["lrp"]],
        options.target,
        options.start,
        options.start_reference,
        options.member_sd,
        options.device,
        figure=not options.no_figure,
        preparation=preparation,
        private=private,
        against=asked_comparison(options),
        adjusted=options.adjusted,
        page=not options.no_report,
        keep_identifiers=options.keep_identifiers,
        checks=check_request(options),
        with_spread=not options.no_spread,
        turns=options.explaining,
    )


def asked_atlas(options: argparse.Namespace) -> Atlas | None:
    """The atlas, None for ``none``."""
    from ADAttributionLogic.atlas.library import load_atlas

    return None if options.atlas == "none" else load_atlas(options.atlas, grouping=options.grouping)


def parse_method(text: str) -> MethodRequest:
    """Read ``lrp:beta=0.5,epsilon=1e-6``.

    Raises
    ------
    UsageError
    """
    from ADAttributionLogic.explain import MethodRequest

    name, _, rest = text.partition(":")
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"Option {part!r} of {name} has no value; write {name}:{part}=VALUE.")
        given[key.strip().replace("-", "_")] = _value(value.strip())
    return MethodRequest(name.strip(), given)


def _value(text: str) -> Any:
    """A number or truth value as JSON writes it; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
