"""Preconditioned conjugate gradients, stopped early: a step need not be exact."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax._jax import sharded
from lmjax._jax.types import Scalar
from lmjax._linalg.blocks.structure import Structure
from lmjax._linalg.linearization import PRECISION


def inexact(
    product: Callable,
    precondition: Callable,
    rhs: Float[Array, " n"],
    tol: Scalar | float,
    max_steps: int,
) -> Float[Array, " n"]:
    """Return an approximate solution of ``A x = rhs``, A positive definite.

    It stops when the last turn changed ``q(x) = x.A x / 2 - rhs.x`` by less than
    ``tol / k`` of it, k being the number of turns: q is what the step is made for, and
    the residual says little about it.

    References:
        Nash and Sofer (1990), Oper. Res. Lett. 9, 219-221, equation 3, as in Ceres.
    """

    def unfinished(carry):
        return carry[-1] & (carry[-2] < max_steps)

    def body(carry):
        x, r, d, gamma, q, k, _ = carry
        w = product(d)
        curvature = jnp.sum(d * w)
        alpha = jnp.where(curvature > 0.0, gamma / curvature, 0.0)
        x, r = x + alpha * d, r - alpha * w
        z = precondition(r)
        gamma_new = jnp.sum(r * z)
        q_new = -0.5 * jnp.sum(x * (rhs + r))
        k = k + 1
        change = k.astype(q.dtype) * (q - q_new)
        more = (change > tol * -q_new) & (curvature > 0.0) & (gamma_new > 0.0)
        return x, r, z + (gamma_new / gamma) * d, gamma_new, q_new, k, more

    z = precondition(rhs)
    gamma = jnp.sum(rhs * z)
    zero = jnp.zeros_like(gamma)
    start = jnp.zeros_like(rhs), rhs, z, gamma, zero, jnp.int32(0), gamma > 0.0
    return sharded.while_loop(unfinished, body, start)[0]


def block_jacobi(
    structure: Structure, columns: Sequence, z: Sequence, added: Float[Array, " n"]
) -> Callable:
    """Return the product with the inverse of the diagonal blocks of a matrix.

    Args:
        structure: The pattern.
        columns: Those of J for each group, whose ``J^T J`` the matrix is.
        z: For each group ``Z`` whose ``Z^T Z`` is subtracted, or None.
        added: What is added to the diagonal.
    """
    blocks = [
        jnp.zeros((leaf.rows, leaf.size, leaf.size), added.dtype)
        for leaf in structure.leaves
    ]
    for jac, group, z_part in zip(columns, structure.groups, z, strict=True):
        start = 0
        for slot, rows in zip(group.slots, group.rows, strict=True):
            end = start + slot.size
            own = jac[start:end]
            term = jnp.sum(own[:, None] * own[None], axis=2)
            if z_part is not None:
                own = z_part[:, start:end]
                term -= jnp.sum(own[:, :, None] * own[:, None], axis=0)
            start = end
            size = structure.leaves[slot.leaf].size
            if not slot.whole:
                flat = jnp.moveaxis(term, -1, 0)
                blocks[slot.leaf] = blocks[slot.leaf].at[rows].add(flat)
                continue
            total = jnp.sum(term, axis=-1)
            for row in range(slot.size // size):
                at = slice(row * size, (row + 1) * size)
                blocks[slot.leaf] = blocks[slot.leaf].at[row].add(total[at, at])
    inverses = []
    for k, (leaf, block) in enumerate(zip(structure.leaves, blocks, strict=True)):
        eye = jnp.eye(leaf.size, dtype=block.dtype)
        diagonal = structure.part(added, k)[:, :, None] * eye[None]
        inverses.append(jnp.linalg.inv(block + diagonal))

    def times(x):
        parts = [
            jnp.einsum("rij,rj->ri", inverse, structure.part(x, k), precision=PRECISION)
            for k, inverse in enumerate(inverses)
        ]
        return jnp.concatenate([part.ravel() for part in parts])

    return times
