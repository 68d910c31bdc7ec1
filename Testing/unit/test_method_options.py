"""Options as values: checked, typed by a user, and sent to another process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ADAttributionLogic.attribution.registry import available_methods
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.method_options import Option

OPTIONS = [(method.name, option) for method in available_methods() for option in method.options]


@pytest.mark.parametrize(("method", "option"), OPTIONS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_every_option_travels_as_json_and_accepts_its_default(method: str, option: Option) -> None:
    document = json.loads(json.dumps(option.document(), allow_nan=False))
    assert Option.from_document(document) == option
    assert option.check(method, option.default) == option.default == option.parse(method, "")


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [(int, " 12 ", 12), (int, "1e1", 10), (float, "1e-4", 1e-4), (str, " blur ", "blur"), (str, "0.5", "0.5")],
)
def test_what_is_typed(kind: type, text: str, expected: object) -> None:
    value = Option("size", 3, "help", kind, minimum=0).parse("occlusion", text)
    assert value == expected and type(value) is kind


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        (
            Option("size", 3, "", int, minimum=1, maximum=9),
            "2.5",
            "Option size of m must be a whole number, but is 2.5",
        ),
        (Option("size", 3, "", int, minimum=1, maximum=9), "12", "Option size of m must be between 1 and 9, but is 12"),
        (Option("memory", 3, "", int, minimum=1), "0", "Option memory of m must be at least 1, but is 0"),
        (Option("noise", 0.1, "", float, maximum=1), "2", "Option noise of m must be at most 1, but is 2"),
        (Option("noise", 0.1, "", float), "much", "Option noise of m must be a number, but is 'much'"),
        (Option("noise", 0.1, "", float), "nan", "Option noise of m must be a number, but is nan"),
        (Option("size", 3, "", int), "inf", "Option size of m must be a whole number, but is inf"),
        (Option("rule", "a", "", str, ("a", "b")), "c", "option rule of m named 'c'.*Known: a, b"),
    ],
)
def test_what_is_refused_says_the_option_and_what_is_allowed(option: Option, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        option.parse("m", text)


def test_options_need_no_torch() -> None:
    """A panel checks them in a Python that may have none."""
    program = "import sys, ADAttributionLogic.method_options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
