"""The order in which a program runs: first the scans, then the points."""

from collections.abc import Callable
from typing import Any

from jax.extend.core import ClosedJaxpr

from lmjax._engines.fused.indices import Index, Place, Unsupported
from lmjax._engines.fused.listing import MOST_TURNS, Listing
from lmjax._engines.fused.recurrences import Asked, check, opened, plan, still
from lmjax._engines.fused.scalars import demand
from lmjax._engines.fused.scan_loop import ScanLoop
from lmjax._engines.fused.scan_memory import MakeReaders, ScanMemory
from lmjax._engines.fused.segments import segments


class Schedule:
    """The order in which a program runs whose results are arrays over the points.

    Attributes:
        memory: Where the scans leave their results; `memory.listing` is the program.
        segments: How the points are visited.
        calls: Names of the functions that run the scans.
    """

    def __init__(
        self,
        module: Any,
        listing: Listing,
        make_readers: MakeReaders,
        reserve: Callable[[int], int],
        most: int,
    ):
        """Plan the program and write its scans.

        Args:
            module: Takes functions.
            listing: The program, whose last two inputs are parameters and unit vectors.
            make_readers: Makes what reads its inputs.
            reserve: Makes room in the memory of a block.
            most: How many instructions a turn may have.
        """
        whole, scans = opened(listing)
        free = still(scans) | dict.fromkeys(listing.inputs[-2:], 0)
        self.memory = ScanMemory(module, whole, free, make_readers, reserve)
        self.segments = segments(self._ask, module.points)
        asked: Asked = {var: {} for scan in scans for var in scan.results}
        for segment in self.segments:
            for index in segment.residuals:
                found = self._ask(index)
                for var, places in asked.items():
                    places.update(found[var])
        self.calls: list[str] = []
        for group in plan(whole, scans, free, asked):
            name = f"@scans{module.count}"
            self.calls += ScanLoop(self.memory, group, name, most).write()

    def _ask(self, index: Index) -> list[dict[Place, None]]:
        """Return what the residuals of an index ask of each variable."""
        listing = self.memory.listing
        wanted: list[list[Place]] = [[(index,)]] * len(listing.outputs)
        found = demand(listing, wanted).asked
        check(found, self.memory.free)
        return found


def schedule_of(
    module: Any,
    closed: ClosedJaxpr,
    make_readers: MakeReaders,
    reserve: Callable[[int], int],
    most: int,
) -> Schedule:
    """Return the schedule of a program; arguments as of `Schedule`."""
    make = lambda listing: Schedule(module, listing, make_readers, reserve, most)
    loops = Listing(closed, turns=1)
    if any(eqn.params["length"] <= MOST_TURNS for eqn in loops.scans()):
        try:
            return make(loops)
        except Unsupported:
            pass  # these do not run along the points
    return make(Listing(closed))
