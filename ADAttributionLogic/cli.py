"""The command line: ``ad-attribution explain | check | batch | reference | study | report | …`` (``--help`` lists all).

Progress and messages go to stderr, results (tables, lists) to stdout. Exit codes: see :data:`EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence

from ADAttributionLogic import __version__
from ADAttributionLogic.commands import (
    atlases,
    batch,
    benchmark_truth,
    bids,
    cache,
    check,
    dicom,
    explain,
    licences,
    methods,
    models,
    preprocess,
    reference,
    report,
    simulate,
    status,
    study,
    study_robustness,
    train,
    what_if,
)
from ADAttributionLogic.departure import leave_in_order
from ADAttributionLogic.errors import ADAttributionError, Cancelled, OutOfMemoryError, is_out_of_memory, sentence_of
from ADAttributionLogic.owned_folders import remove_temporary_leftovers

EXIT_CODES = {
    0: "done",
    1: "an error inside the program (please report it)",
    2: "wrong usage: an unknown option, method, model or atlas, or a value out of range",
    3: "the scan cannot be read or used",
    4: "the network, its weights or its package cannot be used",
    5: "the atlas cannot be read or used",
    6: "the output cannot be written, or would overwrite something",
    7: "the memory did not suffice",
    8: "the table of subjects or the reference cohort cannot be read or used",
    9: "the workers or their scheduler were lost; what was complete by then is kept",
    130: "cancelled; what was finished by then is written",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
        leave_in_order()
        remove_temporary_leftovers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names that are no UTF-8
    try:
        arguments = study_robustness.spelled(arguments)
    except ADAttributionError as error:
        print(f"ad-attribution: {error}", file=sys.stderr)
        return error.exit_code
    # Only 'explain' needs the methods' options, and importing the methods imports torch, which takes seconds.
    parser = _parser(with_method_options=arguments[:1] == ["explain"])
    options = parser.parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except ADAttributionError as error:
        print(f"ad-attribution: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ad-attribution: cancelled; nothing was kept.", file=sys.stderr)
        return Cancelled.exit_code
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; that is no error.
        sys.stderr.close()
        return 0
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(f"ad-attribution: {sentence_of(error)}", file=sys.stderr)
        return OutOfMemoryError.exit_code


def _parser(with_method_options: bool) -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="ad-attribution",
        description="Show which brain regions made a CNN decide as it did on a T1 MRI scan. "
        "Research software, not for clinical use.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    explain.add(commands, with_method_options)
    for command in (
        *(check, what_if, preprocess, simulate, batch, bids, status, reference),
        *(study, study_robustness, train, report, dicom, benchmark_truth),
        *(methods, atlases, models, cache, licences),
    ):
        command.add(commands)
    report.add_animate(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
