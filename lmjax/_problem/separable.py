r"""Variable projection: parameters that enter linearly are solved out.

With ``r(q, c) = b(q) + A(q) c``, the best c for given q is a linear least-squares
solution, and what is left is a problem in q alone (Golub and Pereyra 1973, SIAM J.
Numer. Anal. 10, 413-432),

    r(q) = P b(q),    P = I - A A^+,

whose minima are those of the whole problem. Its Jacobian is taken as

    J = P (db/dq + dA/dq c),    c = -A^+ b,

without the term in which P is differentiated (Kaufman 1975, BIT 15, 49-57): that term
is orthogonal to r, so ``J^T r`` is the exact gradient.
"""

import dataclasses
from functools import reduce
from itertools import groupby
from operator import add

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lmjax._jax import sharded
from lmjax._jax.batched_cond import batched_cond
from lmjax._jax.types import Flag, Scalar
from lmjax._linalg.linearization import UNROLL_UP_TO
from lmjax._linalg.projection import Basis, eliminate, in_memory, least_norm
from lmjax._problem.bounds import Constraints
from lmjax._problem.problem import Problem


class Separated(eqx.Module):
    """A problem and the constants of its elimination.

    Attributes:
        problem: The whole problem; ``problem.linear`` says what is eliminated.
        base: Linear parameters where the residual is expanded: the start where one is
            fixed, 0 elsewhere.
        free: Flags of the linear parameters that are not fixed, or None for all.
    """

    problem: Problem
    base: Float[Array, " k"]
    free: Bool[Array, " k"] | None

    def __call__(self, q: Float[Array, " n-k"]) -> Float[Array, " m"]:
        """Return the residual at the best linear parameters."""
        return _projected(self, q)

    def join(self, q: Float[Array, " n-k"], c: Float[Array, " k"]) -> Array:
        """Return all parameters, in ravel order.

        Joined piece by piece, not gathered by an index array: the batch engine then
        knows which element is which.
        """
        parts, done = [], {True: 0, False: 0}
        for flag, run in groupby(self.problem.linear or ()):
            start, length = done[flag], len(list(run))
            done[flag] = start + length
            parts.append((c if flag else q)[start : start + length])
        return jnp.concatenate(parts)

    def expand(self, q: Float[Array, " n-k"]) -> tuple[Array, list[Array]]:
        """Return the residual at the base, and its derivatives by the free c."""
        if self.problem.user_jac is not None:
            p = self.join(q, self.base)
            r, jac = self.problem.residual_fn(p), self.problem.user_jac(p)
            columns = [jac[:, j] for j in indices(self.problem, True)]
        else:
            along = lambda c: self.problem.residual_fn(self.join(q, c))
            r, derivative = sharded.linearize(along, self.base)
            units = np.eye(self.base.size, dtype=r.dtype)
            few = self.base.size <= UNROLL_UP_TO
            columns = list(
                map(derivative, units) if few else jax.vmap(derivative)(units)
            )
        if self.free is not None:
            columns = [
                jnp.where(self.free[j], column, 0.0) for j, column in enumerate(columns)
            ]
        return r, columns

    def velocity(self, q, c, q_dot) -> Float[Array, " m"]:
        """Return the derivative of the residual along ``q_dot`` at constant c."""
        if self.problem.user_jac is not None:
            jac = self.problem.user_jac(self.join(q, c))
            columns = [jac[:, j] for j in indices(self.problem, False)]
            return reduce(add, (a * q_dot[j] for j, a in enumerate(columns)))
        along = lambda q: self.problem.residual_fn(self.join(q, c))
        return jax.jvp(along, (q,), (q_dot,))[1]

    def complete(self, q: Float[Array, " n-k"]) -> Float[Array, " n"]:
        """Return all parameters: q and the best linear ones.

        Where their columns depend on each other, those of least norm.
        """
        r, columns = self.expand(q)
        basis, _, change = eliminate(columns, r)
        solve = lambda given: least_norm(jnp.stack(given[1], axis=1), given[0])
        change = batched_cond(jnp.any(basis.dropped), solve, change, (r, columns))
        return self.join(q, self.base - change)

    def is_affine(self, p: Float[Array, " n"], start: Array, size: Scalar) -> Flag:
        """Return whether the residual is affine in c, as far as two trials can tell.

        At the start (or 1 where that is 0), and at the c that was found, the residual
        must agree with its linear expansion at the base to half of the digits. A
        residual that is not finite passes.

        Args:
            p: All parameters, at the end of the fit.
            start: The linear ones at the start.
            size: Size of the terms that the residual is the sum of, beyond those seen.
        """
        q = p[indices(self.problem, False)]
        r, columns = self.expand(q)

        def goes_straight(c):
            change = c - self.base
            if self.free is not None:
                change = jnp.where(self.free, change, 0.0)
            steps = [change[j] * column for j, column in enumerate(columns)]
            ahead = self.problem.residual_fn(self.join(q, self.base + change))
            error = jnp.max(jnp.abs(reduce(add, steps, r) - ahead))
            terms = size + jnp.max(reduce(add, map(jnp.abs, steps), jnp.abs(r)))
            half = jnp.finfo(p.dtype).eps ** 0.5
            return (error <= half * terms) | ~jnp.isfinite(terms)

        found = p[indices(self.problem, True)]
        trial = jnp.where(start == 0.0, 1.0, start)
        return goes_straight(trial) & goes_straight(found)


_projected = jax.custom_jvp(lambda separated, q: _best(separated, q)[0])


def _kaufman(primals, tangents):
    separated, q = primals
    r, basis, c = _best(separated, q)
    return r, basis.outside(separated.velocity(q, c, tangents[1]))


# q is the only argument with a derivative
_projected.defjvp(_kaufman, symbolic_zeros=True)


def _best(separated: Separated, q) -> tuple[Array, Basis, Array]:
    """Return the residual at the best linear parameters, and what led to it."""
    r, columns = separated.expand(q)
    r, *columns = in_memory(r, *columns)
    basis, rest, change = eliminate(columns, r)
    return rest, basis, separated.base - change


def indices(problem: Problem, linear: bool) -> np.ndarray:
    """Return where the linear, or the other, parameters stand in ravel order."""
    return np.flatnonzero(np.asarray(problem.linear) == linear)


def separate(problem: Problem, p0: Float[Array, " n"]) -> tuple[Separated, Problem]:
    """Return the elimination of a problem, and the problem in q that it leaves."""
    linear, rest = indices(problem, True), indices(problem, False)
    box, fixed = problem.constraints.box, problem.constraints.fixed
    base, free = jnp.zeros_like(p0[linear]), None
    if fixed is not None:
        base = jnp.where(fixed[linear], p0[linear], base)
        free = ~fixed[linear]
    pick = lambda x: x[rest]
    separated = Separated(problem, base, free)
    reduced = dataclasses.replace(
        problem,
        residual_fn=separated,
        user_jac=None,
        jacobian="rev" if problem.jacobian == "rev" else "projected",
        constraints=Constraints(*jax.tree.map(pick, (box, fixed))),
        linear=None,
    )
    return separated, reduced
