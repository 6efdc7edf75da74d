"""Symmetric systems, singular ones too, against NumPy; derivatives against algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tolerances import assert_close

from lmjax._linalg import symmetric

SIZES = [1, 3, 8, 11]  # written out up to 8, by LAPACK beyond


def positive(n, rng):
    """Return a positive definite matrix in units from 1e-3 to 1e3."""
    root = rng.normal(size=(n + 3, n)) * np.logspace(-3, 3, n)
    return root.T @ root


@quick.jit
def pseudo_inverse(matrix, squares, noise):
    inverse = symmetric.pseudo_inverse(matrix, squares, noise)
    return inverse, inverse.times(jnp.ones(len(matrix)))


def relative(got, expected):
    """Return an error in units of the diagonal, where columns differ in units."""
    scale = np.sqrt(np.abs(np.diagonal(expected)))
    return np.abs((np.asarray(got) - expected) / np.outer(scale, scale)).max()


@pytest.mark.parametrize("n", SIZES)
def test_inverse_of_a_positive_definite_matrix(n, rng):
    matrix = positive(n, rng)
    found, times = pseudo_inverse(matrix, np.zeros(n), 0.0)
    expected = np.linalg.inv(matrix)
    assert relative(found.matrix, expected) < 1e-9
    np.testing.assert_array_equal(found.matrix, found.matrix.T)
    np.testing.assert_allclose(times, np.asarray(found.matrix).sum(axis=1), rtol=1e-12)
    assert int(found.rank) == n
    assert bool(found.well_conditioned)


@pytest.mark.parametrize("n", [3, 11])
@pytest.mark.parametrize("unit", [1.0, 1e3], ids=["unscaled", "scaled"])
def test_singular_matrix_gets_the_inverse_of_least_norm_in_any_units(n, unit, rng):
    root = rng.normal(size=(n + 3, n))
    root[:, -1] = root[:, 0]
    root /= np.linalg.norm(root, axis=0)
    scale = np.where(np.arange(n) == n - 1, unit, 1.0)
    found, _ = pseudo_inverse((root.T @ root) * np.outer(scale, scale), np.zeros(n), 0)
    expected = np.linalg.pinv(root.T @ root, rcond=1e-10, hermitian=True)
    assert_close(found.matrix * np.outer(scale, scale), expected)
    assert int(found.rank) == n - 1
    assert not bool(found.well_conditioned)


def test_indefinite_matrix_is_inverted_and_is_not_healthy(rng):
    q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    matrix = q @ np.diag([2.0, 1.0, -0.7, 3.0]) @ q.T
    # entries of the diagonal may be small or negative: the units come from elsewhere
    found, _ = pseudo_inverse(matrix, np.ones(4), 0.0)
    assert_close(found.matrix, np.linalg.inv(matrix))
    assert int(found.rank) == 4
    assert not bool(found.well_conditioned)


def test_absent_parameters_are_rows_of_zeros(rng):
    matrix = np.zeros((4, 4))
    kept = np.ix_([0, 1, 3], [0, 1, 3])
    matrix[kept] = positive(3, rng)
    found, _ = pseudo_inverse(matrix, np.zeros(4), 0.0)
    expected = np.zeros((4, 4))
    expected[kept] = np.linalg.inv(matrix[kept])
    assert relative(np.asarray(found.matrix)[kept], expected[kept]) < 1e-9
    assert not np.asarray(found.matrix)[2].any()
    assert int(found.rank) == 3


def test_noise_leaves_out_what_it_hides():
    matrix = np.array([[1.0, 1.0 - 1e-6], [1.0 - 1e-6, 1.0]])
    for noise, rank in ((0.0, 2), (1e-9, 2), (1e-4, 1)):
        found, _ = pseudo_inverse(matrix, np.zeros(2), noise)
        assert int(found.rank) == rank
    np.testing.assert_allclose(found.matrix, np.full((2, 2), 0.25), rtol=1e-6)


def test_bad_matrix_of_a_batch_changes_no_other(rng):
    good = np.stack([positive(3, rng) for _ in range(4)])
    bad = good.copy()
    bad[1] = np.nan
    bad[2] = 1.0  # of rank 1
    zeros, noise = np.zeros((4, 3)), np.zeros(4)
    many = quick.jit(jax.vmap(lambda *args: symmetric.pseudo_inverse(*args)))
    expected, found = many(good, zeros, noise), many(bad, zeros, noise)
    np.testing.assert_array_equal(found.matrix[::3], expected.matrix[::3])
    assert not (np.isfinite(found.matrix[1]) & (found.matrix[1] != 0.0)).any()
    np.testing.assert_allclose(found.matrix[2], np.full((3, 3), 1 / 9), rtol=1e-12)
    assert found.rank[2:].tolist() == [1, 3]


def of_scale(solve):
    """Return a solution as a function of a number in matrix and right-hand side."""
    rng = np.random.default_rng(4)
    a, b = positive(5, rng) / 1e3 + np.eye(5), rng.normal(size=(5, 5))
    b, rhs, shift = b + b.T, rng.normal(size=5), rng.normal(size=5)
    inverse = np.linalg.inv(a)
    ours = lambda t: solve(jnp.asarray(a) + t * b, inverse, rhs + jnp.sin(t) * shift)
    # x' = A^-1 (s - B x) at t = 0, and x'' = -2 A^-1 B x'
    x = np.linalg.solve(a, rhs)
    slope = np.linalg.solve(a, shift - b @ x)
    return ours, (x, slope, -2.0 * np.linalg.solve(a, b @ slope))


def by_products(matrix, inverse, rhs):
    preconditioner = lambda: lambda v: v / jnp.diagonal(matrix)
    product = lambda v: jnp.dot(matrix, v)
    return symmetric.solve_by_products(product, preconditioner, rhs)


@pytest.mark.parametrize(
    "solve", [symmetric.solve_dense, by_products], ids=["dense", "products"]
)
def test_derivatives_are_those_of_the_equation(solve):
    fn, (x, slope, bend) = of_scale(solve)

    @quick.jit
    def every(t):
        forward, reverse = jax.jacfwd(fn), jax.jacrev(fn)
        return fn(t), forward(t), reverse(t), jax.jacfwd(reverse)(t)

    got = every(0.0)
    # conjugate gradients stop at eps^(3/4), 1e-12
    for value, expected in zip(got, (x, slope, slope, bend), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-10)


def test_conjugate_gradients_solve_in_n_steps_and_stay_in_the_range(rng):
    root = rng.normal(size=(12, 6)) * np.logspace(0, 2, 6)
    matrix = root.T @ root
    rhs = rng.normal(size=6)
    jacobi = lambda v: v / np.diagonal(matrix)
    solve = lambda product, rhs: symmetric.conjugate_gradients(product, jacobi, rhs)
    got = solve(lambda v: matrix @ v, jnp.asarray(rhs))
    np.testing.assert_allclose(got, np.linalg.solve(matrix, rhs), rtol=1e-9)
    # singular, but consistent: the solution of least norm in the metric of the
    # preconditioner
    root[:, 5] = root[:, 0] + root[:, 1]
    matrix = root.T @ root
    rhs = matrix @ rhs
    got = solve(lambda v: matrix @ v, jnp.asarray(rhs))
    size = np.sqrt(np.diagonal(matrix))
    scaled = matrix / np.outer(size, size)
    expected = np.linalg.pinv(scaled, rcond=1e-10, hermitian=True) @ (rhs / size) / size
    np.testing.assert_allclose(got, expected, rtol=1e-7)


def test_conjugate_gradients_end_where_there_is_no_minimum():
    same = lambda v: v
    rhs = jnp.array([1.0, 2.0])
    solve = quick.jit(
        lambda sign: symmetric.conjugate_gradients(lambda v: sign * v, same, rhs)
    )
    np.testing.assert_array_equal(solve(1.0), rhs)
    np.testing.assert_array_equal(solve(-1.0), [0.0, 0.0])
    np.testing.assert_array_equal(solve(0.0), [0.0, 0.0])
    zero = symmetric.conjugate_gradients(same, same, jnp.zeros(2))
    np.testing.assert_array_equal(zero, [0.0, 0.0])
