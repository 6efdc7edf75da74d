"""Residual, Jacobian and Hessian of a problem in float64, for judge and reference."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.honesty.judge import Point
from benchmarks.honesty.problems import Problem


class Evaluator:
    """A problem in float64, its data rounded to the dtype that the fits work in.

    Attributes:
        problem: The problem.
        data: Its data in float64, as fits in ``dtype`` see them.
    """

    def __init__(self, problem: Problem, dtype):
        self.problem = problem
        self.data = tuple(np.asarray(a, dtype).astype(float) for a in problem.data)

        def flat(p, data):
            return problem.residual(p, *data).ravel()

        def cost(p, data):
            return 0.5 * jnp.sum(flat(p, data) ** 2)

        self._residual = jax.jit(flat)
        self._jacobian = jax.jit(jax.jacfwd(flat))
        self._hessian = jax.jit(jax.hessian(cost))

    def of_set(self, number: int) -> tuple:
        """Return the data of one set."""
        return tuple(a[number] for a in self.data)

    def residual(self, p, number: int) -> np.ndarray:
        """Return the residual."""
        with jax.enable_x64(True):
            return np.asarray(self._residual(np.asarray(p, float), self.of_set(number)))

    def jacobian(self, p, number: int) -> np.ndarray:
        """Return the Jacobian."""
        with jax.enable_x64(True):
            return np.asarray(self._jacobian(np.asarray(p, float), self.of_set(number)))

    def hessian(self, p, number: int) -> np.ndarray:
        """Return the Hessian of the cost."""
        with jax.enable_x64(True):
            return np.asarray(self._hessian(np.asarray(p, float), self.of_set(number)))

    def cost(self, p, number: int) -> float:
        """Return half the sum of squares, infinite where it is not finite."""
        with np.errstate(all="ignore"):
            cost = 0.5 * float(np.sum(self.residual(p, number) ** 2))
        return cost if np.isfinite(cost) else np.inf

    def point(self, p, number: int) -> Point:
        """Return what the judge needs to know of a point."""
        p = np.asarray(p, float)
        return Point(p, self.residual(p, number), self.jacobian(p, number))
