"""Scans along the points: which of their elements a program needs, in which order.

A scan is a loop that runs before the points are visited and keeps its rows in memory.
Rows may then be read at any point, and scans of one length that do not need one another
share a loop: what they have in common is computed once.
"""

from collections.abc import Iterator
from typing import NamedTuple

from lmjax._engines.fused.indices import Index, Place, PointIndex, Unsupported, decided
from lmjax._engines.fused.listing import Equation, Listing
from lmjax._engines.fused.scalars import demand
from lmjax._engines.fused.segments import segments

# Elements of a row of a scan that may be asked for.
MOST_PER_ROW = 400
# Of these, how many may belong to different points.
MOST_COMPONENTS = 24

Asked = dict[int, dict[Place, None]]


class Recurrence(NamedTuple):
    """A scan, as far as it is needed.

    Attributes:
        eqn: Its equation.
        carries: Elements that are carried: number of the carry and place.
        rows: Elements that are kept of each turn: number of the result and place.
        reads: Elements that the body reads of its other operands: number and place.
    """

    eqn: Equation
    carries: list[tuple[int, Place]]
    rows: list[tuple[int, Place]]
    reads: list[tuple[int, Place]]

    @property
    def body(self) -> Listing:
        """What it does in a turn."""
        return self.eqn.params["body"]

    @property
    def first_carry(self) -> int:
        """Number of the first operand that is carried."""
        return self.eqn.params["first_carry"]

    @property
    def begins(self) -> list[int]:
        """Operands that are carried."""
        return self.eqn.operands[self.first_carry : self.eqn.params["first_row"]]

    @property
    def length(self) -> int:
        """How many turns there are."""
        return self.eqn.params["length"]

    def wanted(self) -> list[list[Place]]:
        """Return the elements of the body's outputs."""
        made = [*self.carries, *self.rows]
        many = range(len(self.body.outputs))
        return [[place for i, place in made if i == number] for number in many]

    def turn(self, index: Index) -> Index:
        """Return which row belongs to a turn."""
        if not self.eqn.params["reverse"]:
            return index
        if not isinstance(index, PointIndex):
            return self.length - 1 - index
        return index._replace(start=self.length - 1 - index.start, step=-index.step)

    def operands(self, index: Index) -> Iterator[tuple[int, Place]]:
        """Return the elements that a turn reads: number of the operand and place."""
        first = self.eqn.params["first_row"]
        for i, place in self.reads:
            yield i, (self.turn(index), *place) if i >= first else place


def opened(listing: Listing) -> tuple[Listing, list[Equation]]:
    """Return a program whose scans' results are inputs, and these scans."""
    scans = listing.scans()
    rest = listing.changed()
    rest.equations = [eqn for eqn in listing.equations if eqn.name != "scan"]
    rest.inputs = [*listing.inputs, *(var for eqn in scans for var in eqn.results)]
    return rest, scans


def view(listing: Listing, outputs: list[int]) -> Listing:
    """Return the program with other outputs."""
    other = listing.changed()
    other.outputs = outputs
    return other


def still(scans: list[Equation]) -> dict[int, int]:
    """Return how many leading axes of a scan's results may move with the point."""
    return {
        var: int(i >= eqn.params["first_row"] - eqn.params["first_carry"])
        for eqn in scans
        for i, var in enumerate(eqn.results)
    }


def check(asked: list[dict[Place, None]], free: dict[int, int]) -> None:
    """Raise unless no axis but these moves with the point.

    Args:
        asked: Elements of each variable.
        free: How many leading axes of a variable may move.
    """
    for var, count in free.items():
        for place in asked[var]:
            for index in place[count:]:
                if isinstance(index, PointIndex) and index.size > MOST_COMPONENTS:
                    raise Unsupported("it loops at each point")
                decided(index, lambda at: at, "it reads parameters along the points")


def needed(scan: Equation, asked: Asked) -> Recurrence | None:
    """Return what is needed of a scan, given what is asked of its results."""
    body, before = scan.params["body"], scan.params["first_carry"]
    count = scan.params["first_row"] - before
    carries: dict[tuple[int, Place], None] = {}
    rows: dict[tuple[int, Place], None] = {}
    for i, var in enumerate(scan.results):
        for place in asked.get(var, {}):
            if i < count:
                carries[i, place] = None
            else:
                rows[i, place[1:]] = None
    if len(rows) > MOST_PER_ROW:
        raise Unsupported(f"it keeps more than {MOST_PER_ROW} numbers of each turn")
    if not carries and not rows:
        return None
    while True:
        part = Recurrence(scan, [*carries], [*rows], [])
        found = demand(body, part.wanted()).asked
        inner = enumerate(body.inputs[before : before + count])
        more = {(i, place): None for i, var in inner for place in found[var]}
        if more.keys() <= carries.keys():
            break
        carries |= more
    reads = [
        (i, place)
        for i, var in enumerate(body.inputs)
        if not before <= i < before + count
        for place in found[var]
    ]
    return part._replace(reads=reads)


def plan(
    listing: Listing,
    scans: list[Equation],
    free: dict[int, int],
    asked: Asked,
) -> list[list[Recurrence]]:
    """Return the loops that make what is asked of scans, in order.

    Args:
        listing: The program, opened.
        scans: Its scans.
        free: See `check`.
        asked: Elements of the results of scans; those that scans need are added.
    """
    found: list[tuple[Recurrence, list[int]]] = []
    results = [var for scan in scans for var in scan.results]
    for scan in reversed(scans):
        part = needed(scan, asked)
        if part is None:
            continue
        sources: dict[int, None] = {}
        ask = lambda index, part=part: ask_turn(listing, [part], free, index)
        for segment in segments(ask, part.length, in_order=True):
            got = ask(segment.residuals[0])
            for var in results:
                if got[var]:
                    asked.setdefault(var, {}).update(got[var])
                    sources[var] = None
        found.append((part, [*sources]))
    level_of: dict[int, int] = {}
    groups: dict[tuple[int, int], list[Recurrence]] = {}
    for part, read in reversed(found):
        level = 1 + max((level_of[var] for var in read), default=0)
        level_of |= dict.fromkeys(part.eqn.results, level)
        groups.setdefault((level, part.length), []).append(part)
    return [groups[key] for key in sorted(groups)]


def ask_turn(
    listing: Listing,
    group: list[Recurrence],
    free: dict[int, int],
    index: Index,
) -> list[dict[Place, None]]:
    """Return what is asked of each variable by a turn of a loop, or its beginning."""
    outputs, wanted = [], []
    for part in group:
        begins = ((part.first_carry + i, place) for i, place in part.carries)
        for i, place in (*begins, *part.operands(index)):
            outputs.append(part.eqn.operands[i])
            wanted.append([place])
    found = demand(view(listing, outputs), wanted).asked
    check(found, free)
    return found
