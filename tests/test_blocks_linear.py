"""Steps of problems of blocks, against dense solves of the same linear problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax._linalg.blocks import elimination
from lmjax._linalg.solvers.blocks import factored
from lmjax._problem import block_build

RNG = np.random.default_rng(7)
CAMERAS, POINTS, SEEN = 5, 12, 40


def seen(p, weight):
    """A residual of a camera, a point and what all share."""
    turned = jnp.sin(p["cameras"][:3]) * p["points"]
    shared = p["shared"][0] * turned[:2] + p["shared"][1]
    return weight * (shared + p["cameras"][3:5] ** 2)


def near(p, distance):
    """A residual of two cameras at once."""
    return jnp.sum((p["cameras"][0] - p["cameras"][1]) ** 2) - distance


def prior(p, value):
    """A residual of one camera alone."""
    return p["cameras"] - value


def reprojections(**options):
    rows = {
        "cameras": RNG.integers(0, CAMERAS, SEEN),
        "points": RNG.integers(0, POINTS, SEEN),
    }
    return lmjax.ResidualBlocks(seen, rows, (RNG.normal(size=SEEN),), **options)


def distances():
    rows = {"cameras": np.stack([np.arange(4), np.arange(1, 5)], axis=1)}
    return lmjax.ResidualBlocks(near, rows, (RNG.normal(size=4),))


def priors():
    values = RNG.normal(size=(CAMERAS, 5))
    return lmjax.ResidualBlocks(prior, {"cameras": np.arange(CAMERAS)}, (values,))


START = {
    "cameras": RNG.normal(size=(CAMERAS, 5)),
    "points": RNG.normal(size=(POINTS, 3)),
    "shared": np.array([1.0, 0.2]),
}
PROBLEMS = {
    "one group": [reprojections()],
    "robust": [reprojections(loss="cauchy", loss_scale=0.5)],
    "weighted": [reprojections(sigma=RNG.uniform(1.0, 2.0, SEEN))],
    "masked": [reprojections(mask=RNG.uniform(size=SEEN) < 0.7)],
    "priors first": [priors(), reprojections()],
    "two groups of points": [reprojections(), reprojections(), distances()],
}
# of the largest unknown; conjugate gradients stop by the quadratic model, in which an
# error counts with its square
EXACT, ITERATIVE = 1e-10, 1e-6
SOLVERS = {
    "schur": lmjax.Schur(),
    "schur by name": lmjax.Schur(eliminate="points", dense=True),
    "schur by products": lmjax.Schur(dense=False, tol=1e-14, max_steps=500),
    "sparse": lmjax.SparseCholesky(),
    "conjugate gradients": lmjax.BlockCG(tol=1e-15, max_steps=2000),
}


def accuracy(solver):
    iterative = (
        isinstance(solver, lmjax.BlockCG) or getattr(solver, "dense", 0) is False
    )
    return ITERATIVE if iterative else EXACT


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def linearized(blocks, solver):
    prepared = block_build.prepare(blocks, START, [None] * len(START), solver)
    params = jax.tree.map(jnp.asarray, START)
    problem, p = block_build.build(prepared, params, None, None)
    r = problem.residual_fn(p)
    return problem, p, problem.linearize(p, r, False)


def dense_step(problem, p, damping):
    """The damped step by numpy, from J of the robust cost."""
    fn, zero = problem.along(p)
    jac = np.asarray(jax.jacfwd(fn)(zero))
    r = np.asarray(fn(zero))
    weights = [
        np.ones((g.pattern.outputs, g.pattern.blocks))
        * (1.0 if g.loss is None else np.asarray(g.weights(part)))
        for g, part in zip(problem.groups, problem.structure.split(r), strict=True)
    ]
    weights = np.concatenate([w.ravel() for w in weights])
    jac, r = weights[:, None] * jac, weights * r
    added = damping + (np.sum(jac**2, axis=0) == 0.0)
    return np.linalg.solve(jac.T @ jac + np.diag(added), -jac.T @ r)


# every solver meets the hardest problem, and every problem the default solver
CASES = [
    pytest.param(
        blocks,
        solver,
        id=f"{name}-{kind}",
        marks=[]
        if name == "two groups of points" or kind == "schur"
        else [pytest.mark.slow],
    )
    for name, blocks in PROBLEMS.items()
    for kind, solver in SOLVERS.items()
]


@pytest.mark.parametrize(("blocks", "solver"), CASES)
def test_steps_are_those_of_a_dense_solve(blocks, solver):
    problem, p, linearization = linearized(blocks, solver)
    damping = jnp.asarray(1e-3)
    step = jax.jit(problem.linear_solver)(linearization, damping)
    expected = dense_step(problem, p, 1e-3)
    error = np.max(np.abs(step - expected))
    assert error < accuracy(solver) * np.max(np.abs(expected))


def sparse_reduced(monkeypatch):
    """Let even small reduced matrices be sparse."""
    monkeypatch.setattr(elimination, "FEW", 0)
    monkeypatch.setattr(elimination, "SPARSE_SHARE", np.inf)


@pytest.mark.parametrize("name", ["robust", "two groups of points"])
def test_reduced_matrices_may_be_sparse(name, monkeypatch):
    blocks = PROBLEMS[name]
    sparse_reduced(monkeypatch)
    problem, p, linearization = linearized(blocks, lmjax.Schur(eliminate="points"))
    assert problem.structure.plan.pattern is not None
    step = jax.jit(problem.linear_solver)(linearization, jnp.asarray(1e-3))
    expected = dense_step(problem, p, 1e-3)
    assert np.max(np.abs(step - expected)) < EXACT * np.max(np.abs(expected))


FACTORED = {
    "dense": lmjax.Schur(eliminate="points", dense=True),
    "sparse reduced": lmjax.Schur(eliminate="points"),
    "sparse": lmjax.SparseCholesky(),
}


@pytest.mark.parametrize("name", FACTORED)
def test_one_factorisation_serves_many_right_hand_sides(name, monkeypatch):
    sparse_reduced(monkeypatch)
    solver = FACTORED[name]
    problem, _, model = linearized(PROBLEMS["two groups of points"], solver)
    damping = jnp.asarray(1e-2)
    matrix = np.asarray(problem.structure.normal_matrix(model.columns))
    matrix = matrix + (1e-2 + (np.diagonal(matrix) == 0.0)) * np.eye(len(matrix))
    rhs = RNG.normal(size=(3, len(matrix)))
    expected = np.linalg.solve(matrix, rhs.T).T
    close = lambda got: np.max(np.abs(got - expected)) < 1e-12 * np.max(expected)

    @jax.jit
    def alone(model, rhs):
        known = factored(solver, model, damping)
        step = solver(model.with_gradient(-rhs[0]), damping)
        return jax.lax.map(known.solve, rhs), step

    @jax.jit
    def together(model, rhs):
        return jax.vmap(factored(solver, model, damping).solve)(rhs)

    solved, step = alone(model, rhs)
    assert close(solved)
    np.testing.assert_allclose(step, solved[0], rtol=0, atol=1e-12 * np.max(expected))
    # in XLA with the factors of machine code; a sparse reduced matrix has none there
    if name != "sparse reduced":
        assert close(together(model, rhs))


@pytest.mark.one_of(2)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_steps_under_vmap_are_the_same(solver):
    problem, p, linearization = linearized(PROBLEMS["two groups of points"], solver)
    dampings = jnp.array([1e-3, 0.1])
    steps = jax.vmap(lambda d: problem.linear_solver(linearization, d))(dampings)
    for damping, step in zip(dampings, steps, strict=True):
        expected = dense_step(problem, p, float(damping))
        error = np.max(np.abs(step - expected))
        assert error < accuracy(solver) * np.max(np.abs(expected))


@pytest.mark.one_of(3)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_rows_may_be_traced(solver):
    given = PROBLEMS["two groups of points"]
    options = {"solver": lmjax.LevenbergMarquardt(linear_solver=solver, max_steps=1)}
    expected = lmjax.least_squares(given, START, **options)
    rows = [jax.tree.map(jnp.asarray, blocks.at) for blocks in given]

    @jax.jit
    def fit(rows):
        blocks = [
            lmjax.ResidualBlocks(b.fn, at, b.args)
            for b, at in zip(given, rows, strict=True)
        ]
        return lmjax.least_squares(blocks, START, **options).cost

    assert abs(fit(rows) - expected.cost) < accuracy(solver) * expected.cost


def test_moments_are_those_of_the_whole_jacobian():
    problem, p, linearization = linearized(PROBLEMS["two groups of points"], None)
    fn, zero = problem.along(p)
    jac, r = jax.jacfwd(fn)(zero), fn(zero)
    grad, norms, size = linearization.moments()
    np.testing.assert_allclose(grad, jac.T @ r, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(norms, jnp.linalg.norm(jac, axis=0), rtol=1e-12)
    np.testing.assert_allclose(size, jnp.linalg.norm(r), rtol=1e-12)
    v = jnp.asarray(RNG.normal(size=zero.size))
    np.testing.assert_allclose(linearization.mv(v), jac @ v, rtol=1e-10, atol=1e-10)
