"""Which parameters each block of residuals depends on.

The flat vector of unknowns holds one *leaf* of parameters after the other, row by row.
A *group* is many blocks of residuals of the same kind; each block sees some rows of
some leaves, its *slots*. Inside a group blocks are the last axis of every array.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmjax._linalg.linearization import PRECISION

# Sums of up to so many terms are written out, term by term.
MOST_TERMS = 32


class Leaf(NamedTuple):
    """One kind of parameters.

    Attributes:
        start: Where it begins in the flat vector.
        rows: How many of them there are.
        size: Unknowns of a row.
    """

    start: int
    rows: int
    size: int

    @property
    def end(self) -> int:
        """Where it ends in the flat vector."""
        return self.start + self.rows * self.size


class Slot(NamedTuple):
    """What a block sees of a leaf: one row, or the whole of it.

    Attributes:
        leaf: Number of the leaf.
        size: Unknowns that the block sees.
        whole: Whether every block sees the whole leaf.
    """

    leaf: int
    size: int
    whole: bool


class Group(eqx.Module):
    """Blocks of residuals of one kind.

    Attributes:
        rows: For each slot the row that each block sees, zero for a whole leaf.
        slots: What they see.
        outputs: Residuals of a block.
    """

    rows: Int[Array | np.ndarray, "s k"]
    slots: tuple[Slot, ...] = eqx.field(static=True)
    outputs: int = eqx.field(static=True)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.rows.shape[1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Unknowns of each slot."""
        return tuple(slot.size for slot in self.slots)

    @property
    def width(self) -> int:
        """Unknowns that a block sees."""
        return sum(self.sizes)


class Structure(eqx.Module):
    """The pattern of a problem.

    Attributes:
        groups: Its groups of blocks.
        plan: What the linear solver worked out about it beforehand.
        leaves: Its kinds of parameters.
    """

    groups: tuple[Group, ...]
    plan: Any
    leaves: tuple[Leaf, ...] = eqx.field(static=True)

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self.leaves[-1].end

    def part(self, v: Float[Array, " n"], leaf: int) -> Float[Array, "rows size"]:
        """Return what a flat vector holds for a leaf, row by row."""
        kind = self.leaves[leaf]
        return v[kind.start : kind.end].reshape(kind.rows, kind.size)

    def places(self, group: Group) -> Int[Array, "s k"]:
        """Return where each slot of a block begins in a flat vector."""
        pairs = zip(group.slots, group.rows, strict=True)
        return jnp.stack([self._first(*pair) for pair in pairs])

    def _first(self, slot: Slot, rows: Int[Array, " k"]) -> Int[Array, " k"]:
        leaf = self.leaves[slot.leaf]
        first = leaf.start + (0 * rows if slot.whole else rows * leaf.size)
        return jnp.asarray(first, jnp.int32)

    def places_without(self, gone: int) -> Callable[[Group], Int[Array, "k s"]]:
        """Return a function that does so for a vector without one leaf, blocks first.

        Slots of that leaf get some place that is not used.
        """
        leaf = self.leaves[gone]
        length = leaf.rows * leaf.size

        def places(group: Group) -> Int[Array, "k s"]:
            every = self.places(group)
            return jnp.where(every >= leaf.end, every - length, every).T

        return places

    def indices(self, group: Group) -> Int[Array, "w k"]:
        """Return where each number that a block sees is in a flat vector."""
        parts = [jnp.zeros((0, group.blocks), jnp.int32)]  # it may see nothing
        for slot, rows in zip(group.slots, group.rows, strict=True):
            within = jnp.arange(slot.size, dtype=jnp.int32)[:, None]
            parts.append(self._first(slot, rows)[None] + within)
        return jnp.concatenate(parts)

    def gather(self, v: Float[Array, " n"], group: Group) -> Float[Array, "w k"]:
        """Return what each block of a group sees of a flat vector."""
        parts = [jnp.zeros((0, group.blocks), v.dtype)]  # it may see nothing
        for slot, rows in zip(group.slots, group.rows, strict=True):
            part = self.part(v, slot.leaf)
            if slot.whole:
                part = jnp.broadcast_to(
                    part.ravel()[:, None], (slot.size, group.blocks)
                )
                parts.append(part)
            else:
                # rows as they stand: the transpose adds them as they stand, too
                parts.append(part[rows].T)
        return jnp.concatenate(parts)

    def add_up(self, terms: list[Float[Array, "w k"]]) -> Float[Array, " n"]:
        """Return the flat vector of the sums over all blocks, a term per group."""
        totals = [jnp.zeros((), terms[0].dtype)] * len(self.leaves)
        for group, term in zip(self.groups, terms, strict=True):
            start = 0
            for slot, rows in zip(group.slots, group.rows, strict=True):
                part = term[start : start + slot.size]
                start += slot.size
                leaf = self.leaves[slot.leaf]
                if slot.whole:
                    total = jnp.sum(part, axis=1)
                else:
                    total = sum_by_row(part, rows, leaf.rows).ravel()
                totals[slot.leaf] = totals[slot.leaf] + total
        every = [
            jnp.broadcast_to(total, (leaf.rows * leaf.size,))
            for total, leaf in zip(totals, self.leaves, strict=True)
        ]
        return jnp.concatenate(every)

    def squares(self, columns: Sequence[Array]) -> Float[Array, " n"]:
        """Return the diagonal of ``J^T J``, from the columns of each group."""
        return self.add_up([contract(jac, jac, 1) for jac in columns])

    def normal_matrix(self, columns: Sequence[Array]) -> Float[Array, "n n"]:
        """Return ``J^T J`` as a dense matrix, from the columns of each group."""
        matrix = jnp.zeros((self.size, self.size), columns[0].dtype)
        for group, jac in zip(self.groups, columns, strict=True):
            at = self.indices(group)
            gram = jnp.einsum("aok,bok->abk", jac, jac, precision=PRECISION)
            matrix = matrix.at[at[:, None], at[None]].add(gram)
        return matrix

    def split(self, r: Float[Array, " m"]) -> list[Float[Array, "out k"]]:
        """Return the residuals of each group."""
        parts, start = [], 0
        for group in self.groups:
            size = group.outputs * group.blocks
            part = r[start : start + size]
            parts.append(part.reshape(group.outputs, group.blocks))
            start += size
        return parts


def absent(diagonal: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return ones where a diagonal is zero: such an unknown stays where it is."""
    return (diagonal == 0.0).astype(diagonal.dtype)


def join(parts: list[Float[Array, "out k"]]) -> Float[Array, " m"]:
    """Return the flat residual; what `Structure.split` undoes."""
    return jnp.concatenate([part.ravel() for part in parts])


def contract(a: Array, b: Array, axis: int) -> Array:
    """Return the sum of ``a * b`` along an axis, written out if it is short.

    XLA needs twenty times as long for sums along leading axes on a CPU.
    """
    shape = jnp.broadcast_shapes(a.shape, b.shape)
    if not 1 <= shape[axis] <= MOST_TERMS:
        return jnp.sum(a * b, axis=axis)

    def term(x, k):
        return jax.lax.index_in_dim(x, min(k, x.shape[axis] - 1), axis, keepdims=False)

    total = term(a, 0) * term(b, 0)
    for k in range(1, shape[axis]):
        total = total + term(a, k) * term(b, k)
    return total


def sum_by_row(
    term: Float[Array, "w k"], rows: Int[Array, " k"], count: int
) -> Float[Array, "rows w"]:
    """Return the sums over the blocks that see each row."""
    # rows of numbers side by side: XLA adds them one row at a time, not one number
    return jax.ops.segment_sum(term.T, rows, count)
