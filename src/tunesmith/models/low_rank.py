"""Low-rank additions, named: what they change is a product, whichever factors it is made of.

Shape letters: O outputs, I inputs of a linear layer, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LowRank:
    """An addition scale * B_OR A_RI to a linear layer's weights.

    Attributes:
        module: the layer that holds it, by its name in the policy.
        low: name of A in the policy.
        high: name of B in the policy.
    """

    module: str
    low: str
    high: str
    scale: float
