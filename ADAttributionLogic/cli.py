"""The command line: ``ad-attribution explain | preprocess | batch | simulate | methods | atlases | models``.

Progress and messages go to stderr, results (tables, lists) to stdout. Exit codes: see :data:`EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ADAttributionLogic import __version__
from ADAttributionLogic.commands import atlases, batch, explain, methods, models, preprocess, simulate
from ADAttributionLogic.errors import ADAttributionError, Cancelled

EXIT_CODES = {
    0: "done",
    1: "an error inside the program (please report it)",
    2: "wrong usage: an unknown option, method, model or atlas, or a value out of range",
    3: "the scan cannot be read or used",
    4: "the network, its weights or its package cannot be used",
    5: "the atlas cannot be read or used",
    6: "the output cannot be written, or would overwrite something",
    130: "cancelled; what was finished by then is written",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
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
    for command in (preprocess, simulate, batch, methods, atlases, models):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
