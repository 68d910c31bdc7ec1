"""``ad-attribution models``: list the networks, show a card, install, remove and verify."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any

from ADAttributionLogic.commands import models_create
from ADAttributionLogic.commands.listing import print_entry, print_json
from ADAttributionLogic.commands.progress import Progress
from ADAttributionLogic.errors import NetworkError, UnknownNameError, UsageError


def add(commands: Any) -> None:
    """Add the command with its own commands; alone it lists."""
    command = commands.add_parser(
        "models",
        help="list, show, install, remove and verify networks",
        description="Without a command of its own: list the networks that ship, that are installed, and that can be "
        "installed, with what they were trained on.",
    )
    command.add_argument("--json", action="store_true", help="the list as JSON")
    command.set_defaults(run=_list, registry=None)
    own = command.add_subparsers(title="commands", metavar="COMMAND")
    own.add_parser("list", help="list the networks").set_defaults(run=_list)
    models_create.add(own)
    show = own.add_parser("show", help="show a network's card")
    show.add_argument("name", metavar="NAME", help="of a network that ships or is installed, or a package folder")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(run=_show)
    _add_install(own)
    remove = own.add_parser("remove", help="remove an installed network")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(run=_remove)
    verify = own.add_parser("verify", help="check the files of networks against their cards, and try to load them")
    verify.add_argument("names", metavar="NAME", nargs="*", help="networks or package folders (default: all)")
    verify.set_defaults(run=_verify)


def _add_install(own: Any) -> None:
    install = own.add_parser(
        "install",
        help="install a registered network, or a model package from a folder or zip file",
        description="A registered network is downloaded from its authors' source after you agree, checked by SHA-256, "
        "converted without executing anything, and kept in your folder of networks ($AD_ATTRIBUTION_MODELS).",
    )
    install.add_argument("what", metavar="NAME|FOLDER|ZIP")
    install.add_argument("--yes", action="store_true", help="agree to source and licence without being asked")
    install.add_argument("--from", dest="source", metavar="FOLDER", help="take the files from a folder (offline)")
    install.add_argument("--registry", metavar="FILE", help="another registry than the one that ships")
    install.set_defaults(run=_install)


def _list(options: argparse.Namespace) -> int:
    from ADAttributionLogic.networks.packages import available_models, read_card
    from ADAttributionLogic.store.places import installed_packages
    from ADAttributionLogic.store.registry import read_registry

    shipped, installed = available_models(), installed_packages()
    cards = [(folder, read_card(folder)) for folder in (*shipped, *installed)]
    here = {folder.name for folder, _ in cards}
    registered = [network for network in read_registry() if network.name not in here]
    if options.json:
        entries = [{**card, "folder": str(folder), "state": _state(folder, shipped)} for folder, card in cards]
        more = [{"name": n.name, "title": n.title, "state": "can be installed", "bytes": n.bytes} for n in registered]
        return print_json([*entries, *more])
    for folder, card in cards:
        title = f"{card['title']} ({_state(folder, shipped)})"
        print_entry(card["name"], title, f"trained on: {card['training']['data']}", f"use: {card['intended_use']}")
    for network in registered:
        size = f"{network.bytes / 1e6:.0f} MB, {network.licence}"
        how = f"not installed ({size}); get it with: ad-attribution models install {network.name}"
        print_entry(network.name, network.title, f"use: {network.intended_use}", how)
    return 0


def _state(folder: Path, shipped: tuple[Path, ...]) -> str:
    return "ships" if folder in shipped else "installed"


def _show(options: argparse.Namespace) -> int:
    from ADAttributionLogic.networks.card_text import card_parts
    from ADAttributionLogic.networks.packages import read_card

    card = read_card(_package(options.name))
    if options.json:
        return print_json(card)
    print(f"{card['title']} ({card['name']})\n")
    for heading, text in card_parts(card):
        print(textwrap.fill(text, 110, initial_indent=f"{heading:14}", subsequent_indent=" " * 14))
    return 0


def _install(options: argparse.Namespace) -> int:
    from ADAttributionLogic.store.installation import install_package, install_registered
    from ADAttributionLogic.store.registry import find_registered

    if Path(options.what).exists():
        if options.source:
            raise UsageError("--from goes with the name of a registered network, not with a folder or zip file.")
        with Progress() as monitor:
            target = install_package(options.what, monitor=monitor)
    else:
        network = find_registered(options.what, options.registry)
        print(network.question(), file=sys.stderr)
        if not options.yes and not _agreed(options.source):
            print("Not installed.", file=sys.stderr)
            return 0
        with Progress() as monitor:
            target = install_registered(network, options.source, monitor=monitor)
    print(f"Installed: {target}")
    return 0


def _agreed(source: str | None) -> bool:
    """Ask; without somebody to answer it is an error, not a yes."""
    if not sys.stdin.isatty():
        raise UsageError("Installing a network needs your consent: answer the question in a terminal, or add --yes.")
    what = "Install it" if source else "Download and install it"
    print(f"{what} under this licence? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove(options: argparse.Namespace) -> int:
    from ADAttributionLogic.store.installation import remove

    print(f"Removed: {remove(options.name)}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from ADAttributionLogic.networks.packages import available_models
    from ADAttributionLogic.store.installation import verify
    from ADAttributionLogic.store.places import installed_packages

    folders = [_package(name) for name in options.names] or [*available_models(), *installed_packages()]
    wrong = 0
    for folder in folders:
        problem = verify(folder)
        wrong += bool(problem)
        print(f"{folder.name:24} {problem or 'as its card says'}")
    return NetworkError.exit_code if wrong else 0


def _package(name: str) -> Path:
    """The folder of a package by name or path."""
    from ADAttributionLogic.networks.packages import available_models
    from ADAttributionLogic.store.places import installed_packages

    known = {folder.name: folder for folder in (*installed_packages(), *available_models())}
    if name in known:
        return known[name]
    if Path(name).is_dir():
        return Path(name)
    raise UnknownNameError("network that ships or is installed", name, known)
