"""An engine that guesses ahead whenever it can, so that tests do not depend on clocks."""

from __future__ import annotations

import random
from typing import Any

from harness import Driver

from mlxworker.model import Model
from mlxworker.payoff import WIDTHS, Choice, Offer, Payoff


class Eager(Payoff):
    """Guesses whenever it can, as many as chance says, whether it pays or not."""

    def __init__(self, source: str = "lookup") -> None:
        super().__init__()
        self.random = random.Random(5)
        self.source = source

    def choose(self, offers: list[Offer]) -> Choice | None:
        fitting = [o for o in offers if o.source == self.source]
        widths = [w for o in fitting for w in WIDTHS if w <= o.most]
        return Choice(self.source, self.random.choice(widths)) if widths else None


def eager(model: Model, source: str = "lookup", **options: Any) -> Driver:
    driver = Driver(model, speculate=True, **options)
    driver.engine.speculation.payoff = Eager(source)
    return driver
