"""How a network's outputs are to be read. Needs no torch."""

from typing import Literal

#: ``softmax`` over classes; ``sigmoid``: one output, the log-odds of the second class; ``score``: one output, a
#: regression whose value is the answer.
OutputKind = Literal["softmax", "sigmoid", "score"]
