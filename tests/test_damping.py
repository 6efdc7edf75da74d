"""Damping rules: sequences worked by hand, and their limits in the solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from tolerances import TOL, assert_close

import lmjax

DTYPES = ["float64", "float32"]

# (gain, accepted) and, worked by hand, the (lam, growth) that follow from (1, 2).
# Accepted: lam * max(shrink = 1/3, 1 - (2 gain - 1)^3), growth 2.
# Rejected: lam * growth, growth doubles.
NIELSEN_SCRIPT = [
    ((0.5, True), (1.0, 2.0)),  # 1 - 0
    ((1.0, True), (1 / 3, 2.0)),  # max(1/3, 1 - 1)
    ((-1.0, False), (2 / 3, 4.0)),
    ((-1.0, False), (8 / 3, 8.0)),
    ((0.0, False), (64 / 3, 16.0)),
    ((0.25, True), (24.0, 2.0)),  # 1 + 1/8
    ((0.75, True), (21.0, 2.0)),  # 1 - 1/8
    ((0.9, True), (10.248, 2.0)),  # 1 - 0.512
    ((50.0, True), (3.416, 2.0)),  # max(1/3, ...)
    ((0.0, False), (6.832, 4.0)),
]

# The same with fast_shrink = 1/10 where the gain is within 5 % of 1.
SPRINT_SCRIPT = [
    ((1.0, True), (0.1, 2.0)),
    ((0.96, True), (0.01, 2.0)),
    ((1.04, True), (0.001, 2.0)),
    ((1.0, False), (0.002, 4.0)),  # a refused step never sprints
    ((0.9, True), (0.000976, 2.0)),  # 1 - 0.512
    ((1.06, True), (0.000976 / 3, 2.0)),
]

CLASSICAL_SCRIPT = [
    ((0.9, True), (0.25, 6.0)),
    ((0.1, True), (0.0625, 6.0)),  # the size of the gain does not matter
    ((0.0, False), (0.375, 6.0)),
    ((0.0, False), (2.25, 6.0)),
    ((0.9, True), (0.5625, 6.0)),
]


def play(rule, script, dtype):
    """Return the (lam, growth) pairs after each (gain, accepted) pair."""
    lam, growth = rule.start(dtype)
    pairs = []
    for gain, accept in script:
        gain, accept = jnp.asarray(gain, dtype), jnp.asarray(accept)
        lam, growth = rule.update(lam, growth, gain, accept)
        pairs.append((lam, growth))
    return pairs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rule", "script"),
    [
        (lmjax.Nielsen(shrink=1 / 3, fast_shrink=1 / 3), NIELSEN_SCRIPT),
        (lmjax.Nielsen(shrink=1 / 3), SPRINT_SCRIPT),
        (lmjax.Classical(up=6.0, down=4.0, initial=1.0), CLASSICAL_SCRIPT),
        (lmjax.Fixed(0.7), [((0.9, True), (0.7, 1.0)), ((0.0, False), (0.7, 1.0))]),
    ],
    ids=["nielsen", "fast_shrink", "classical", "fixed"],
)
def test_scripted_judgements_give_the_sequence_worked_by_hand(rule, script, dtype):
    inputs, expected = zip(*script, strict=True)
    got = play(rule, inputs, dtype)
    assert {value.dtype for pair in got for value in pair} == {np.dtype(dtype)}
    assert_close(got, list(expected))


@pytest.mark.parametrize(
    ("rule", "lam"),
    [
        (lmjax.Nielsen(initial=0.02), 0.02),
        (lmjax.Classical(initial=0.03), 0.03),
        (lmjax.Fixed(0.04), 0.04),
    ],
    ids=["nielsen", "classical", "fixed"],
)
def test_first_lambda_is_the_one_asked_for(rule, lam):
    assert float(rule.start("float64")[0]) == lam


@pytest.mark.parametrize("rule", [lmjax.Nielsen(), lmjax.Classical()], ids=str)
def test_lambda_grows_after_a_gain_of_nan(rule):
    ((lam, growth),) = play(rule, [(np.nan, False)], "float64")
    assert float(lam) > float(rule.start("float64")[0])
    assert np.isfinite(growth)


@pytest.mark.parametrize("rule", [lmjax.Nielsen(), lmjax.Classical()], ids=str)
def test_lambda_never_shrinks_to_zero(rule):
    tiny = jnp.asarray(np.finfo("float32").tiny)
    growth, gain = jnp.float32(2.0), jnp.float32(1.0)
    lam, _ = rule.update(tiny, growth, gain, jnp.array(True))
    assert float(lam) > 0.0


@pytest.mark.parametrize("factor", [1.0, 0.5, -2.0, np.nan], ids=str)
@pytest.mark.parametrize("name", ["up", "down"])
def test_classical_refuses_a_factor_that_does_not_exceed_one(name, factor):
    with pytest.raises(ValueError, match=name):
        lmjax.Classical(**{name: factor})


@pytest.mark.parametrize(
    "make",
    [
        lambda: lmjax.Nielsen(initial=-1.0),
        lambda: lmjax.Classical(initial=-1.0),
        lambda: lmjax.Fixed(-1.0),
    ],
    ids=["nielsen", "classical", "fixed"],
)
def test_negative_lambda_is_refused(make):
    with pytest.raises(ValueError, match=r"initial|value"):
        make()


# ---- in the solver: r = a exp(-k t) - y from a point where J is well conditioned

T = np.linspace(0.0, 3.0, 7)
Y = np.array([2.1, 1.4, 0.8, 0.6, 0.3, 0.2, 0.2])
START = np.array([1.5, 0.8])


def residual(p, t, y):
    return p[0] * jnp.exp(-p[1] * t) - y


def at_start():
    """Return residual and Jacobian at START, by hand."""
    decay = np.exp(-START[1] * T)
    jac = np.stack([decay, -START[0] * T * decay], axis=1)
    return START[0] * decay - Y, jac


def first_squares(r, jac):
    """The squared scale of the first step: the columns, and what J leaves out."""
    hessians = jax.jacfwd(jax.jacfwd(residual))(START, T, Y)
    bends = np.diagonal(hessians, axis1=1, axis2=2)
    size = np.linalg.norm(r) * np.linalg.norm(bends, axis=0)
    return np.sum(jac**2, axis=0) + size


def one_step(damping):
    solver = lmjax.LevenbergMarquardt(max_steps=1, damping=damping)
    sol = lmjax.least_squares(residual, START, (T, Y), solver=solver)
    return np.asarray(sol.params) - START


def test_fixed_zero_takes_the_gauss_newton_step():
    r, jac = at_start()
    expected = np.linalg.lstsq(jac, -r, rcond=None)[0]
    assert_close(one_step(lmjax.Fixed(0.0)), expected)


def test_fixed_large_moves_along_the_scaled_negative_gradient():
    lam = 1e4
    r, jac = at_start()
    expected = -(jac.T @ r) / (lam * first_squares(r, jac))
    # the curvature left out is a few parts in lam of the step
    np.testing.assert_allclose(one_step(lmjax.Fixed(lam)), expected, rtol=10 / lam)


@pytest.mark.parametrize(
    "damping",
    [lmjax.Nielsen(0.3), lmjax.Classical(initial=0.3), lmjax.Fixed(0.3)],
    ids=["nielsen", "classical", "fixed"],
)
def test_first_step_solves_the_damped_normal_equations(damping):
    r, jac = at_start()
    matrix = jac.T @ jac
    matrix += 0.3 * np.diag(first_squares(r, jac))
    assert_close(one_step(damping), -np.linalg.solve(matrix, jac.T @ r))


def arctan_step(damping):
    """One step on r = arctan(p - 10) from 12, where Gauss-Newton overshoots to 6.5.

    A step shorter than the start itself, so that nothing but its gain speaks against.
    """
    solver = lmjax.LevenbergMarquardt(max_steps=1, damping=damping)
    return lmjax.least_squares(shifted_arctan, np.array([12.0]), solver=solver)


def shifted_arctan(p):
    return jnp.arctan(p - 10.0)


def test_fixed_takes_a_step_that_raises_the_cost():
    sol = arctan_step(lmjax.Fixed(0.0))
    assert_close(sol.params, np.array([12.0 - 5.0 * np.arctan(2.0)]))
    assert float(sol.cost) > 0.5 * np.arctan(2.0) ** 2


# small enough that the first proposal is the Gauss-Newton step
BOLD = [lmjax.Nielsen(1e-9), lmjax.Classical(initial=1e-9)]
bold_rules = pytest.mark.parametrize("damping", BOLD, ids=["nielsen", "classical"])


@bold_rules
def test_guarded_rules_refuse_a_step_that_raises_the_cost(damping):
    sol = arctan_step(damping)
    assert float(sol.params[0]) == 12.0
    assert int(sol.num_accepted) == 0


# What the step from 2 to 3 leaves of the residual of `bent`, and whether it is taken:
# its gain is 1 - left**2, and a ten-thousandth is what it must be.
LEFT = {
    "raises the cost": (1.2, False),
    "achieves nothing": (1.0, False),
    "achieves half of what it must": (1.0 - 2.5e-5, False),
    "achieves five times what it must": (1.0 - 2.5e-4, True),
    "achieves its promise": (0.0, True),
}
LEFT_BEHIND, TAKEN = map(np.array, zip(*LEFT.values(), strict=True))


def bent(p, left):
    """Return a residual of 1 and a slope of -1 at p = 2, and of ``left`` at p = 3."""
    u = p - 2.0
    return 1.0 - u + left * u**3


@bold_rules
@pytest.mark.parametrize("batch", [False, True], ids=["alone", "batch"])
def test_step_is_taken_if_it_achieves_a_ten_thousandth(batch, damping):
    solver = lmjax.LevenbergMarquardt(max_steps=1, damping=damping)

    def fit(left):
        start = jnp.array([2.0])
        sol = lmjax.least_squares(bent, start, (left,), solver=solver)
        return sol.params[0], sol.num_accepted, sol.in_batch

    if batch:
        p, taken, in_batch = jax.jit(jax.vmap(fit))(LEFT_BEHIND)
    else:
        p, taken, in_batch = map(np.array, zip(*map(fit, LEFT_BEHIND), strict=True))
    np.testing.assert_array_equal(taken, TAKEN)
    np.testing.assert_allclose(p, 2.0 + TAKEN, rtol=1e-8)
    np.testing.assert_array_equal(in_batch, batch)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "damping",
    [lmjax.Nielsen(), lmjax.Classical(), lmjax.Fixed(0.0), lmjax.Fixed(0.1)],
    ids=["nielsen", "classical", "gauss-newton", "fixed"],
)
def test_every_rule_reaches_the_same_minimum(damping, dtype):
    p, _ = scipy.optimize.curve_fit(
        lambda t, a, k: a * np.exp(-k * t), T, Y, START, xtol=1e-15, ftol=1e-15
    )
    solver = lmjax.LevenbergMarquardt(damping=damping, max_steps=200)
    args = (T.astype(dtype), Y.astype(dtype))
    sol = lmjax.least_squares(residual, START.astype(dtype), args, solver=solver)
    assert sol.params.dtype == dtype
    # SciPy differentiates by differences, hence not all the digits of float64
    np.testing.assert_allclose(sol.params, p, rtol=max(TOL[np.dtype(dtype)], 1e-7))
