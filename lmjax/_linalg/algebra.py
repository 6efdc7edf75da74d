"""The algebra of small matrices that a machine program does in its own way."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from lmjax._linalg.linearization import PRECISION, identity
from lmjax._linalg.singular_values import singular_values
from lmjax._linalg.solvers.dense import solve_positive


class Algebra(NamedTuple):
    """What inverses are made with.

    Attributes:
        inverse: Returns that of a symmetric positive definite matrix, NaN of others.
        singular_values: Returns those of a matrix and its right vectors, as rows.
        product: Returns ``A^T B``.
    """

    inverse: Callable
    singular_values: Callable
    product: Callable


PLAIN = Algebra(
    lambda a: solve_positive(a, identity(len(a), len(a), a.dtype)),
    lambda a: singular_values(a)[1:],
    lambda a, b: jnp.dot(a.T, b, precision=PRECISION),
)
