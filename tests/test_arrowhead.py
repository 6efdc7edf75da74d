"""Arrow matrices and their elimination, against the dense matrices they stand for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tolerances import TOL, assert_close

from lmjax._linalg import arrowhead, symmetric
from lmjax._linalg.arrowhead import Arrow, ArrowMatrix
from lmjax._linalg.solvers.schur import Schur
from lmjax._statistics import block_covariance

# written out up to 8 columns, by matrix products beyond
SIZES = {"few": Arrow(4, 3, 2), "many": Arrow(3, 9, 9)}


unscaled_blocks = quick.jit(block_covariance.unscaled_blocks)
arrow_inverse = quick.jit(symmetric.arrow_inverse)
times = quick.jit(lambda inverse, v: inverse.times(v))
schur = quick.jit(lambda linearization, damping: Schur()(linearization, damping))


@partial(quick.jit, static_argnums=0)
def linearize(arrow, jac, p, r, row):
    return arrowhead.linearize(arrow, lambda p: jac @ p, p, r, row)


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def arrow(request):
    return request.param


def dense_of(matrix):
    """Return an arrow as a NumPy matrix, block by block."""
    own, shared, curves = matrix.cross.shape
    n = own * curves + shared
    dense = np.zeros((n, n))
    for g in range(curves):
        at = np.arange(own) * curves + g
        dense[np.ix_(at, at)] = matrix.own[..., g]
        dense[at, -shared:] = matrix.cross[..., g]
        dense[-shared:, at] = matrix.cross[..., g].T
    dense[-shared:, -shared:] = matrix.shared
    return dense


def jacobian(arrow, rng):
    """Return a random J with the pattern; curves alternate in its rows."""
    rows = arrow.own + 4
    columns = rng.normal(size=(arrow.own + arrow.shared, rows, arrow.curves))
    jac = np.zeros((rows, arrow.curves, arrow.own * arrow.curves + arrow.shared))
    for g in range(arrow.curves):
        own, shared = np.split(columns[..., g], [arrow.own])
        jac[:, g, np.arange(arrow.own) * arrow.curves + g] = own.T
        jac[:, g, arrow.own * arrow.curves :] = shared.T
    return jac.reshape(rows * arrow.curves, -1)


def linearization_of(arrow, jac, rng, row=None):
    """Return the linearization of a linear residual, and that residual."""
    r = rng.normal(size=len(jac))
    p = np.zeros(jac.shape[1])
    return linearize(arrow, jnp.asarray(jac), jnp.asarray(p), jnp.asarray(r), row), r


def test_linearization_is_that_of_the_dense_jacobian(arrow, rng):
    jac = jacobian(arrow, rng)
    row = rng.uniform(0.5, 2.0, len(jac))
    got, r = linearization_of(arrow, jac, rng, jnp.asarray(row))
    jac = row[:, None] * jac
    factor, dp, v = rng.uniform(0.5, 2.0, (3, jac.shape[1]))
    jac = jac * factor
    r = r + jac @ dp
    u = r + jac @ v
    found = recompute_outputs(got, *map(jnp.asarray, (factor, dp, v, u)))
    expected = {
        "grad": jac.T @ r,
        "norms": np.linalg.norm(jac, axis=0),
        "size": np.linalg.norm(r),
        "mv": jac @ v,
        "rmv": jac.T @ u,
        "normal": jac.T @ jac @ v,
    }
    assert_close(found, expected)
    assert_close(dense_of(got.rescale(jnp.asarray(factor)).matrix), jac.T @ jac)


@quick.jit
def recompute_outputs(linearization, factor, dp, v, u):
    model = linearization.rescale(factor).shifted(dp)
    grad, norms, size = model.moments()
    return {
        "grad": grad,
        "norms": norms,
        "size": size,
        "mv": model.mv(v),
        "rmv": model.rmv(u),
        "normal": model.normal_matrix() @ v,
    }


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_schur_step_solves_the_dense_least_squares_problem(arrow, rng, damping):
    jac = jacobian(arrow, rng)
    linearization, r = linearization_of(arrow, jac, rng)
    n = jac.shape[1]
    stacked = np.concatenate([jac, np.sqrt(damping) * np.eye(n)])
    expected = np.linalg.lstsq(stacked, -np.concatenate([r, np.zeros(n)]))[0]
    assert_close(schur(linearization, jnp.asarray(damping)), expected)


def test_absent_parameters_stay_put(rng):
    arrow = SIZES["few"]
    jac = jacobian(arrow, rng)
    jac[:, [1, 5, -1]] = 0.0
    linearization, r = linearization_of(arrow, jac, rng)
    expected = np.linalg.lstsq(jac, -r)[0]
    assert_close(schur(linearization, jnp.asarray(0.0)), expected)


def test_matrix_is_found_from_its_products(arrow, rng):
    jac = jacobian(arrow, rng)
    matrix = jnp.asarray(jac.T @ jac)
    got = arrowhead.matrix_of(arrow, lambda v: matrix @ v, matrix.dtype)
    assert_close(dense_of(got), matrix)
    keep = rng.random(len(matrix)) < 0.7
    kept = got.kept(jnp.asarray(keep)).plus_diagonal(jnp.asarray(~keep * 1.0))
    expected = np.where(keep[:, None] & keep, matrix, np.diag(~keep * 1.0))
    assert_close(dense_of(kept), expected)


def blocks_of(arrow, jac):
    """Return the matrix and the columns as a global fit has them."""
    p, r = (jnp.zeros(size, jac.dtype) for size in jac.shape[::-1])
    found = linearize(arrow, jnp.asarray(jac), p, r, None)
    return found.matrix, found.columns


def assert_blocks(arrow, blocks, expected, tol):
    """Compare covariance blocks with a dense covariance."""
    for g in range(arrow.curves):
        at = np.arange(arrow.own) * arrow.curves + g
        for got, want in (
            (blocks.own[g], expected[np.ix_(at, at)]),
            (blocks.cross[g], expected[at, -arrow.shared :]),
        ):
            np.testing.assert_allclose(got, want, rtol=tol, atol=tol * abs(want).max())
    shared = expected[-arrow.shared :, -arrow.shared :]
    np.testing.assert_allclose(blocks.shared, shared, rtol=tol, atol=tol)


def test_covariance_is_the_inverse_of_the_dense_normal_matrix(arrow, rng):
    jac = jacobian(arrow, rng)
    blocks, rank, _ = unscaled_blocks(*blocks_of(arrow, jac))
    assert int(rank) == jac.shape[1]
    tol = TOL[np.dtype("float64")]
    assert_blocks(arrow, blocks, np.linalg.inv(jac.T @ jac), tol)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_covariance_survives_columns_that_are_nearly_dependent(rng, dtype):
    arrow, eps = SIZES["few"], float(np.finfo(dtype).eps)
    jac = jacobian(arrow, rng)
    own = jac[:, : 3 * arrow.curves].reshape(len(jac), 3, arrow.curves)
    # condition of 0.3/sqrt(eps): the normal matrix has one digit left
    own[:, 1, 2] = own[:, 0, 2] + 3.0 * np.sqrt(eps) * own[:, 1, 2]
    jac = jac.astype(dtype)
    blocks, rank, _ = unscaled_blocks(*blocks_of(arrow, jac))
    assert int(rank) == jac.shape[1]
    # through singular values in float64, which know the rounded J
    expected = np.linalg.pinv(jac.astype("float64"))
    # eps times the condition number, with room for the constant
    assert_blocks(arrow, blocks, expected @ expected.T, 30.0 * np.sqrt(eps))


def test_own_parameters_that_a_curve_leaves_open_get_the_least_norm(rng):
    arrow = SIZES["few"]
    jac = jacobian(arrow, rng)
    own = jac[:, : 3 * arrow.curves].reshape(len(jac), 3, arrow.curves)
    own[:, 1, 2] = own[:, 0, 2]
    blocks, rank, open_ = unscaled_blocks(*blocks_of(arrow, jac))
    assert int(rank) == jac.shape[1] - 1 == np.linalg.matrix_rank(jac)
    flags = np.asarray(arrow.split(open_)[0])
    assert np.argwhere(flags).tolist() == [[0, 2], [1, 2]]
    assert int(np.sum(open_)) == 2
    # J v = 0 for v = (1, -1, 0) of that curve and nothing else, so that the inverse
    # of least norm is orthogonal to v; the determined sum is its dense one
    pinv = np.linalg.pinv(jac)
    scale = np.linalg.norm(own[:, 0, 2])
    assert scale == np.linalg.norm(own[:, 1, 2])
    assert_blocks(arrow, blocks, pinv @ pinv.T, TOL[np.dtype("float64")])


def test_shared_parameters_that_own_ones_replace_get_no_covariance(rng):
    arrow = SIZES["few"]
    jac = jacobian(arrow, rng)
    own = jac[:, : 3 * arrow.curves].reshape(len(jac), 3, arrow.curves)
    jac[:, -1] = np.sum(own[:, 0], axis=1)
    blocks, rank, open_ = unscaled_blocks(*blocks_of(arrow, jac))
    assert int(rank) == jac.shape[1] - 1
    # the last shared one, and the first own one of each curve
    own_open, shared_open = map(np.asarray, arrow.split(open_))
    assert own_open[0].all()
    assert not own_open[1:].any()
    assert np.flatnonzero(shared_open).tolist() == [arrow.shared - 1]
    expected = np.zeros(2 * jac.shape[1:])
    expected[:-1, :-1] = np.linalg.inv(jac[:, :-1].T @ jac[:, :-1])
    assert_blocks(arrow, blocks, expected, TOL[np.dtype("float64")])


def random_matrix(arrow, rng):
    jac = jacobian(arrow, rng)
    return blocks_of(arrow, jac)[0]


def test_inverse_is_exact_where_the_matrix_is_positive_definite(arrow, rng):
    matrix = random_matrix(arrow, rng).plus_diagonal(
        jnp.ones(arrow.own * arrow.curves + arrow.shared)
    )
    v = rng.normal(size=arrow.own * arrow.curves + arrow.shared)
    inverse = arrow_inverse(matrix, jnp.ones_like(v))
    assert_close(times(inverse, jnp.asarray(v)), np.linalg.solve(dense_of(matrix), v))


BROKEN = {
    "indefinite curve": lambda m: ArrowMatrix(
        m.own.at[..., 1].multiply(-1.0), m.cross, m.shared
    ),
    "singular curve": lambda m: ArrowMatrix(
        m.own.at[..., 1].set(1.0), m.cross, m.shared
    ),
    "indefinite shared": lambda m: ArrowMatrix(m.own, m.cross, -m.shared),
    "zero": lambda m: jax.tree.map(jnp.zeros_like, m),
}


@pytest.mark.parametrize("name", BROKEN)
def test_inverse_is_positive_definite_whatever_the_matrix(name, rng):
    arrow = SIZES["few"]
    matrix = BROKEN[name](random_matrix(arrow, rng))
    n = arrow.own * arrow.curves + arrow.shared
    inverse = arrow_inverse(matrix, jnp.zeros(n))
    dense = np.stack([times(inverse, e) for e in jnp.eye(n)])
    assert np.linalg.eigvalsh(0.5 * (dense + dense.T)).min() > 0.0
    np.testing.assert_allclose(dense, dense.T, atol=1e-9 * abs(dense).max())
