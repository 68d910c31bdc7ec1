"""``ad-attribution batch``: the command line of :mod:`ADAttributionLogic.batch`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.commands.check_options import add_check_options, check_request
from ADAttributionLogic.commands.engine_options import add_engine_options, asked_engine, asked_shard, sources_of
from ADAttributionLogic.commands.preparation_options import (
    add_preprocessing_options,
    cache_folder,
    preprocessing_options,
    wants_preprocessing,
)
from ADAttributionLogic.commands.reference_options import add_reference_options, asked_comparison
from ADAttributionLogic.commands.report import add_identifiers
from ADAttributionLogic.commands.run_page import view_of
from ADAttributionLogic.commands.start_options import add_start_options
from ADAttributionLogic.errors import Cancelled, UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.explain import MethodRequest

#: Exit code when the batch is complete but for scans that failed.
SOME_FAILED = 3


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "batch",
        help="explain all scans of a folder or a CSV",
        description="Explain all scans of a folder, or of a CSV with a column 'scan', into one folder per scan and a "
        "summary table. Started again with the same question, it goes on where it was interrupted.",
    )
    command.add_argument("input", metavar="INPUT", help="folder with scans, or CSV with a column 'scan'")
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
    command.add_argument("--out", required=True, metavar="DIR", help="new folder, or one of an interrupted batch")
    command.add_argument("--no-figure", action="store_true", help="write no figures")
    command.add_argument(
        "--space", choices=("model", "native"), default="model", help="as for explain (default: %(default)s)"
    )
    add_reference_options(command, many_scans=True)
    command.add_argument(
        "--no-spread", action="store_true", help="do not measure how far the answer moves with the scan's placement"
    )
    command.add_argument("--no-report", action="store_true", help="write no reports (report.html) and no index.html")
    add_identifiers(command)
    command.add_argument("--private", action="store_true", help="as for explain, also in the summary")
    add_check_options(command, "none")
    add_preprocessing_options(command, "none", many_scans=True)
    add_engine_options(command)
    command.set_defaults(run=_batch, replace_non_finite=None)


def _batch(options: argparse.Namespace) -> int:
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.batch import BatchOptions, count_open, explain_batch, find_scans
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.preparation import Preparation

    if options.private and options.keep_identifiers:
        raise UsageError("--private leaves out what --keep-identifiers keeps. Say one of them.")
    preparation = None
    if wants_preprocessing(options):
        preparation = Preparation(preprocessing_options(options), options.space, options.accept_qc)
    scans = find_scans(options.input, without=[options.out])
    asked = BatchOptions(
        [parse_method(text) for text in options.methods or ["lrp"]],
        options.target,
        options.start,
        options.start_reference,
        options.member_sd,
        options.device,
        figure=not options.no_figure,
        preparation=preparation,
        private=options.private,
        against=asked_comparison(options),
        adjusted=options.adjusted,
        page=not options.no_report,
        keep_identifiers=options.keep_identifiers,
        checks=check_request(options),
        with_spread=not options.no_spread,
    )
    atlas = None if options.atlas == "none" else load_atlas(options.atlas, grouping=options.grouping)
    model, shard = load_model(options.model, output=options.output), asked_shard(options)
    print(f"{len(scans)} scans" + (f", shard {shard}" if shard else ""), file=sys.stderr)
    share = list(scans) if shard is None else shard.of(scans)
    engine = asked_engine(options, count_open(share, options.out), model, asked)
    with cache_folder(options.no_cache) as cache, going_on_later(), view_of(options.json_lines) as view:
        result = explain_batch(
            scans,
            model,
            replace(asked, cache=cache),
            options.out,
            atlas=atlas,
            on_row=view.row,
            listener=view.event,
            on_progress=view.progress,
            engine=engine,
            sources=sources_of(options, None if atlas is None else options.atlas),
            shard=shard,
        )
    told = sys.stderr if options.json_lines else sys.stdout
    print(
        f"{result.done} computed, {result.kept} complete from before, {result.failed} failed: {result.summary}",
        file=told,
    )
    return SOME_FAILED if result.failed else 0


@contextmanager
def going_on_later() -> Iterator[None]:
    """An interruption by the user is no failure: what is complete is kept, and started again it goes on."""
    try:
        yield
    except KeyboardInterrupt as cause:
        raise Cancelled("Cancelled; the results that are complete are kept. Start it again to go on.") from cause


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
