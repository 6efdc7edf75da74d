"""A program along the points: first what recurs, then the points."""

from collections.abc import Callable
from typing import Any

from jax.extend.core import ClosedJaxpr

from lmjax._engines.fused.kept import Given, Kept
from lmjax._engines.fused.listing import MOST_TURNS, Listing
from lmjax._engines.fused.places import Index, Place, Unsupported
from lmjax._engines.fused.recurrences import Asked, check, opened, plan, still
from lmjax._engines.fused.scalars import demand
from lmjax._engines.fused.stretches import stretches
from lmjax._engines.fused.turns import Turns


class Course:
    """A program whose results run over the points.

    Attributes:
        kept: What it reads, which is `kept.listing`.
        stretches: How the points are visited.
        calls: Names of the functions that run before.
    """

    def __init__(
        self,
        module: Any,
        listing: Listing,
        given: Given,
        reserve: Callable[[int], int],
        most: int,
    ):
        """Plan the program and write what recurs.

        Args:
            module: Takes functions.
            listing: The program, whose last two inputs are parameters and unit vectors.
            given: Makes what reads its inputs.
            reserve: Makes room in the memory of a block.
            most: How many instructions a turn may have.
        """
        whole, scans = opened(listing)
        free = still(scans) | dict.fromkeys(listing.inputs[-2:], 0)
        self.kept = Kept(module, whole, free, given, reserve)
        self.stretches = stretches(self._ask, module.points)
        asked: Asked = {var: {} for scan in scans for var in scan.results}
        for stretch in self.stretches:
            for index in stretch.residuals:
                found = self._ask(index)
                for var, places in asked.items():
                    places.update(found[var])
        self.calls: list[str] = []
        for group in plan(whole, scans, free, asked):
            name = f"@turns{module.count}"
            self.calls += Turns(self.kept, group, name, most).write()

    def _ask(self, index: Index) -> list[dict[Place, None]]:
        """Return what the residuals of an index ask of each variable."""
        listing = self.kept.listing
        wanted: list[list[Place]] = [[(index,)]] * len(listing.outputs)
        found = demand(listing, wanted).asked
        check(found, self.kept.free)
        return found


def chart(
    module: Any,
    closed: ClosedJaxpr,
    given: Given,
    reserve: Callable[[int], int],
    most: int,
) -> Course:
    """Return how a program goes along the points; arguments as of `Course`."""
    make = lambda listing: Course(module, listing, given, reserve, most)
    loops = Listing(closed, turns=1)
    if any(eqn.params["length"] <= MOST_TURNS for eqn in loops.scans()):
        try:
            return make(loops)
        except Unsupported:
            pass  # these do not run along the points
    return make(Listing(closed))
