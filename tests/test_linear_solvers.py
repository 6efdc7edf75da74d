"""Linear solvers: against numpy on the augmented system, and against each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from tolerances import TOL, assert_close

import lmjax
from lmjax._linalg.linearization import DenseLinearization, MatrixFreeLinearization

DTYPES = ["float64", "float32"]
SOLVERS = {
    "qr": lmjax.QR(),
    "cholesky": lmjax.Cholesky(),
    "svd": lmjax.SVD(),
    "cg": lmjax.CG(tol=1e-12, max_steps=60),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def problem(rng, m, n):
    """Return a residual and a Jacobian whose columns have unit norm."""
    jac = rng.normal(size=(m, n))
    return rng.normal(size=m), jac / np.linalg.norm(jac, axis=0)


def linearize(solver, r, jac, dtype):
    r, jac = jnp.asarray(r, dtype), jnp.asarray(jac, dtype)
    if not solver.matrix_free:
        return DenseLinearization(r, jac.T)
    zeros, ones = jnp.zeros(jac.shape[1], dtype), jnp.ones(jac.shape[1], dtype)
    return MatrixFreeLinearization(r, zeros, jnp.ones_like(r), ones, lambda p: jac @ p)


def step(solver, r, jac, damping, dtype="float64"):
    """Return the solver's step as numpy."""
    lin = linearize(solver, r, jac, dtype)
    dp = eqx.filter_jit(solver)(lin, jnp.asarray(damping, dtype))
    assert dp.dtype == dtype
    return np.asarray(dp)


def augmented(r, jac, damping):
    """Return the least-squares solution of [J; sqrt(damping) I] dp = [-r; 0]."""
    n = jac.shape[1]
    rows = np.concatenate([jac, np.sqrt(damping) * np.eye(n)])
    return np.linalg.lstsq(rows, np.concatenate([-r, np.zeros(n)]), rcond=None)[0]


@pytest.mark.one_of(2)
@pytest.mark.parametrize("damping", [0.0, 0.3], ids=["undamped", "damped"])
@every_dtype
@pytest.mark.parametrize("n", [1, 8, 9])
@every_solver
def test_step_solves_the_augmented_system(solver, n, dtype, damping, rng):
    r, jac = problem(rng, 40, n)
    got = step(solver, r, jac, damping, dtype)
    assert_close(got, augmented(r, jac, damping))


@pytest.mark.parametrize("name", ["qr", "cholesky"])
@pytest.mark.parametrize("n", [5, 11], ids=["written-out", "library"])
def test_batched_steps_equal_single_ones(name, n, rng):
    solver, damping = SOLVERS[name], 0.1
    r = rng.normal(size=(3, 20))
    jac = np.stack([problem(rng, 20, n)[1] for _ in range(3)])
    fn = lambda r, jac: solver(DenseLinearization(r, jac.T), jnp.asarray(damping))
    got = jax.jit(jax.vmap(fn))(r, jac)
    assert_close(got, np.stack([augmented(r[i], jac[i], damping) for i in range(3)]))


@every_dtype
@every_solver
def test_parameters_that_may_not_move_stay(solver, dtype, rng):
    r, jac = problem(rng, 20, 4)
    jac[:, 2] = 0.0
    got = step(solver, r, jac, 0.1, dtype)
    assert got[2] == 0.0
    kept = [0, 1, 3]
    assert_close(got[kept], augmented(r, jac[:, kept], 0.1))


# written out up to 8 residuals, by LAPACK beyond
@pytest.mark.parametrize("solver", [lmjax.SVD(), lmjax.Dual()], ids=["svd", "dual"])
@pytest.mark.parametrize("shape", [(3, 7), (1, 2), (4, 12), (11, 30)], ids=str)
def test_step_for_few_residuals_is_that_of_least_norm(shape, solver, rng):
    r, jac = problem(rng, *shape)
    assert_close(step(solver, r, jac, 0.0), -np.linalg.pinv(jac) @ r)
    assert_close(step(solver, r, jac, 0.3), augmented(r, jac, 0.3))


def test_dual_step_survives_rows_that_depend_on_each_other(rng):
    r, jac = problem(rng, 5, 9)
    jac[4], r[4] = jac[0] - jac[1], r[0] - r[1]
    # rows are told apart to rounding of their products only
    expected = -np.linalg.pinv(jac, rcond=1e-10) @ r
    got = step(lmjax.Dual(), r, jac, 0.0)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@every_dtype
def test_svd_gives_the_step_of_least_norm_for_equal_columns(dtype, rng):
    r, jac = problem(rng, 15, 4)
    jac[:, 3] = jac[:, 1]
    got = step(lmjax.SVD(), r, jac, 0.0, dtype)
    assert_close(got, -np.linalg.pinv(jac, rcond=1e-10) @ r)


@pytest.mark.parametrize("n", [6, 10], ids=["written-out", "library"])
def test_qr_keeps_the_digits_that_cholesky_loses(n, rng):
    # condition number 1e7: QR keeps 16 - 7 digits, the normal equations 16 - 14
    u = np.linalg.qr(rng.normal(size=(30, n)))[0]
    v = np.linalg.qr(rng.normal(size=(n, n)))[0]
    jac = u @ np.diag(np.logspace(0, -7, n)) @ v.T
    exact = rng.normal(size=n)
    error = {
        name: np.linalg.norm(step(SOLVERS[name], -jac @ exact, jac, 0.0) - exact)
        for name in ("qr", "svd", "cholesky")
    }
    assert error["qr"] < 1e-7
    assert error["svd"] < 1e-7
    assert not error["cholesky"] < 1e-5


def test_cholesky_of_a_singular_matrix_is_not_finite():
    # equal columns, no damping: the second pivot is 4 - 2 * 2 = 0 without rounding
    got = step(lmjax.Cholesky(), np.ones(4), np.ones((4, 2)), 0.0)
    assert not np.isfinite(got).any()


def test_loose_cg_is_worse_than_tight_cg(rng):
    r, jac = problem(rng, 40, 12)
    exact = augmented(r, jac, 0.0)
    errors = [
        np.linalg.norm(step(lmjax.CG(tol=tol), r, jac, 0.0) - exact)
        for tol in (0.3, 1e-2, 1e-6)
    ]
    assert errors[0] > errors[1] > errors[2]


@every_dtype
def test_cg_stays_at_the_solution_when_asked_for_too_much(dtype, rng):
    # n steps suffice; what follows is rounding and must not add up
    r, jac = problem(rng, 40, 13)
    got = step(lmjax.CG(tol=0.0, max_steps=200), r, jac, 0.0, dtype)
    assert_close(got, augmented(r, jac, 0.0))


def test_cg_obeys_its_limit_of_products(rng):
    # one step of conjugate gradients is one of steepest descent with exact line search
    r, jac = problem(rng, 20, 5)
    g = jac.T @ r
    expected = -g * (g @ g) / np.sum((jac @ g) ** 2)
    assert_close(step(lmjax.CG(tol=0.0, max_steps=1), r, jac, 0.0), expected)


# ---- whole fits

T = np.linspace(0.0, 4.0, 25)
Y = 3.0 * np.exp(-0.8 * T) + 0.5 + 0.05 * np.sin(9.0 * T)
START = np.array([1.0, 1.5, 0.0])


def residual(p, t, y):
    return p[0] * jnp.exp(-p[1] * t) + p[2] - y


@pytest.fixture(scope="module")
def minimum():
    fn = lambda p: p[0] * np.exp(-p[1] * T) + p[2] - Y
    jac = lambda p: np.stack(
        [np.exp(-p[1] * T), -p[0] * T * np.exp(-p[1] * T), np.ones_like(T)], axis=1
    )
    return scipy.optimize.least_squares(
        fn, START, jac, xtol=1e-15, ftol=1e-15, gtol=1e-15
    ).x


def fit(linear_solver, dtype="float64"):
    start, t, y = (a.astype(dtype) for a in (START, T, Y))
    solver = lmjax.LevenbergMarquardt(linear_solver=linear_solver)
    return lmjax.least_squares(residual, start, (t, y), solver=solver)


@every_dtype
@every_solver
def test_every_linear_solver_leads_to_the_same_minimum(solver, dtype, minimum):
    sol = fit(solver, dtype)
    assert bool(sol.success)
    assert sol.params.dtype == dtype
    np.testing.assert_allclose(sol.params, minimum, rtol=TOL[np.dtype(dtype)])


@pytest.mark.parametrize(
    ("solver", "name"),
    [(lmjax.QR(), "QR"), (lmjax.CG(), "CG"), (lmjax.Cholesky(), "Cholesky")],
    ids=["qr", "cg", "cholesky"],
)
def test_solution_names_the_linear_solver(solver, name):
    assert fit(solver).linear_solver == name


def numpy_style(linearization, damping):
    jac, r = linearization.jac, linearization.residual
    matrix = jac.T @ jac + damping * jnp.eye(jac.shape[1], dtype=jac.dtype)
    return -jnp.linalg.solve(matrix, jac.T @ r)


def test_own_function_serves_as_linear_solver(minimum):
    assert_close(fit(numpy_style).params, minimum)


def test_solution_names_an_own_function():
    assert fit(numpy_style).linear_solver == "numpy_style"


class Own(eqx.Module):
    """A solver with an array of its own: damping per parameter."""

    extra: jax.Array

    def __call__(self, linearization, damping):
        jac, r = linearization.jac, linearization.residual
        matrix = jac.T @ jac + jnp.diag(damping * self.extra)
        return -jnp.linalg.solve(matrix, jac.T @ r)


def test_own_module_serves_as_linear_solver(minimum):
    sol = fit(Own(jnp.array([1.0, 2.0, 3.0])))
    assert sol.linear_solver == "Own"
    assert_close(sol.params, minimum)


@pytest.mark.parametrize(
    ("m", "n", "kind"),
    [(10, 3, lmjax.QR), (3, 3, lmjax.QR), (2, 3, lmjax.SVD), (2000, 1001, lmjax.CG)],
    ids=["many-residuals", "square", "few-residuals", "many-parameters"],
)
def test_default_linear_solver_follows_the_shape(m, n, kind):
    chosen = lmjax.LevenbergMarquardt().choose_linear_solver(m, n)
    assert type(chosen) is kind


def test_fewer_residuals_than_parameters_give_the_nearest_solution():
    # a + 2 b = 5 from the origin, columns of norm 1 and 2: in these units the nearest
    # point minimises a^2 + 4 b^2, so (a, b) is proportional to (1, 2 / 4)
    sol = lmjax.least_squares(lambda p: p[:1] + 2.0 * p[1:] - 5.0, jnp.zeros(2))
    assert sol.linear_solver == "SVD"
    assert_close(sol.params, np.array([2.5, 1.25]))


@pytest.mark.parametrize("step", [jnp.ones(3), jnp.ones((2, 1))], ids=jnp.shape)
def test_step_of_another_shape_is_named(step):
    solver = lmjax.LevenbergMarquardt(linear_solver=lambda model, damping: step)
    with pytest.raises(ValueError, match=r"linear_solver: expected .*\(2,\)"):
        lmjax.least_squares(lambda p: p - 1.0, jnp.zeros(2), solver=solver)
