"""Manifolds in the style of Ceres' tests, the groups against SciPy and mpmath."""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.transform import Rotation

from lmjax.manifolds import SE2, SE3, SO2, SO3, Sphere

PI = np.pi


def random_unit(rng, size):
    q = rng.normal(size=size)
    return q / np.linalg.norm(q)


def hat(w):
    return np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])


def rotation_matrix(q):
    return Rotation.from_quat(q, scalar_first=True).as_matrix()


def plane_matrix(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def homogeneous(rotation, translation):
    size = len(translation)
    m = np.eye(size + 1)
    m[:size, :size], m[:size, size] = rotation, translation
    return m


def algebra(rotation, translation):
    """Return the matrix whose scipy.linalg.expm is the pose."""
    m = homogeneous(rotation, translation)
    m[-1, -1] = 0.0
    return m


@dataclasses.dataclass(frozen=True)
class Case:
    """A manifold, how to draw elements, which part of a step turns, and matrices."""

    manifold: eqx.Module
    draw: Callable
    turn: slice
    identity: tuple = ()
    matrix: Callable | None = None
    algebra: Callable | None = None


CASES = {
    "SO2": Case(
        SO2(),
        lambda rng: rng.uniform(-PI, PI, 1),
        slice(0, 1),
        (0.0,),
        lambda x: plane_matrix(x[0]),
        lambda v: v[0] * np.array([[0.0, -1.0], [1.0, 0.0]]),
    ),
    "SO3": Case(
        SO3(),
        lambda rng: random_unit(rng, 4),
        slice(0, 3),
        (1.0, 0.0, 0.0, 0.0),
        rotation_matrix,
        hat,
    ),
    "SE2": Case(
        SE2(),
        lambda rng: np.append(rng.normal(size=2), rng.uniform(-PI, PI)),
        slice(2, 3),
        (0.0, 0.0, 0.0),
        lambda x: homogeneous(plane_matrix(x[2]), x[:2]),
        lambda v: algebra(v[2] * np.array([[0.0, -1.0], [1.0, 0.0]]), v[:2]),
    ),
    "SE3": Case(
        SE3(),
        lambda rng: np.append(rng.normal(size=3), random_unit(rng, 4)),
        slice(3, 6),
        (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0),
        lambda x: homogeneous(rotation_matrix(x[3:]), x[:3]),
        lambda v: algebra(hat(v[3:]), v[:3]),
    ),
    "Sphere2": Case(Sphere(2), lambda rng: random_unit(rng, 2), slice(0, 1)),
    "Sphere3": Case(Sphere(), lambda rng: random_unit(rng, 3), slice(0, 2)),
    "Sphere7": Case(Sphere(7), lambda rng: random_unit(rng, 7), slice(0, 6)),
}
GROUPS = [name for name, case in CASES.items() if case.matrix]
EPS = {np.float32: np.finfo(np.float32).eps, np.float64: np.finfo(np.float64).eps}
# a third of the variants by default; the slow tests have the others
pytestmark = pytest.mark.one_of(3)
every_manifold = pytest.mark.parametrize("name", CASES)
every_group = pytest.mark.parametrize("name", GROUPS)
every_dtype = pytest.mark.parametrize(
    "dtype", [np.float32, np.float64], ids=["float32", "float64"]
)
# how far a step turns: nothing, nearly nothing, on both sides of where series end, pi-
ANGLES = [0.0, 1e-30, 1e-12, 1e-5, 1e-3, 0.1, 0.28, 0.49, 0.51, 1.0, 2.0, 3.0, 3.14]


def draw_many(case, rng, count, dtype):
    return np.stack([case.draw(rng) for _ in range(count)]).astype(dtype)


def steps(case, rng, angle, count, dtype):
    """Return random steps that turn by an angle."""
    v = rng.normal(size=(count, case.manifold.tangent_size))
    turn = v[:, case.turn]
    v[:, case.turn] = angle * turn / np.linalg.norm(turn, axis=1, keepdims=True)
    return v.astype(dtype)


@functools.cache
def compiled(method):
    return jax.jit(jax.vmap(method))


def mapped(method, *args):
    """Return a method of many elements."""
    return np.asarray(compiled(method)(*args))


def same_element(name, x, y):
    """Return how far two elements are apart, as arrays: q and -q, turns are equal."""
    if name in ("SO2", "SE2"):
        gap = x - y
        gap[..., -1] = (gap[..., -1] + PI) % (2 * PI) - PI
        return np.abs(gap).max()
    if name in ("SO3", "SE3"):
        sign = np.sign(np.sum(x[..., -4:] * y[..., -4:], axis=-1, keepdims=True))
        y = np.concatenate([y[..., :-4], sign * y[..., -4:]], axis=-1)
    return np.abs(x - y).max()


@every_manifold
@every_dtype
def test_a_step_of_zero_stays(name, dtype, rng):
    case = CASES[name]
    x = draw_many(case, rng, 20, dtype)
    v = np.zeros((20, case.manifold.tangent_size), dtype)
    there = mapped(case.manifold.retract, x, v)
    assert there.dtype == dtype
    np.testing.assert_allclose(there, x, rtol=0, atol=2 * EPS[dtype])
    back = mapped(case.manifold.local, x, x)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, v, atol=4 * EPS[dtype])


@every_manifold
@every_dtype
def test_local_returns_the_step(name, dtype, rng):
    case = CASES[name]
    for angle in ANGLES:
        x = draw_many(case, rng, 20, dtype)
        v = steps(case, rng, angle, 20, dtype)
        back = mapped(case.manifold.local, x, mapped(case.manifold.retract, x, v))
        # the way to a point that is nearly opposite hangs on its last digits
        loss = PI / np.sin(angle) if name.startswith("Sphere") and angle > 2.0 else 1.0
        np.testing.assert_allclose(back, v, rtol=0, atol=30 * loss * EPS[dtype])


@every_manifold
@every_dtype
def test_retract_leads_to_the_other_element(name, dtype, rng):
    case = CASES[name]
    x, y = draw_many(case, rng, 200, dtype), draw_many(case, rng, 200, dtype)
    v = mapped(case.manifold.local, x, y)
    there = mapped(case.manifold.retract, x, v)
    assert same_element(name, there, y) < 30 * EPS[dtype]
    turned = np.linalg.norm(v[:, case.turn], axis=1)
    assert turned.max() <= PI + 2 * EPS[dtype]


@every_manifold
@every_dtype
def test_half_turns_and_nearly(name, dtype, rng):
    case = CASES[name]
    for gap in (0.0, EPS[dtype], 1e-6, 1e-4):
        x = draw_many(case, rng, 50, dtype)
        y = mapped(case.manifold.retract, x, steps(case, rng, PI - gap, 50, dtype))
        v = mapped(case.manifold.local, x, y)
        turned = np.linalg.norm(v[:, case.turn], axis=1)
        np.testing.assert_allclose(turned, PI - gap, rtol=0, atol=20 * EPS[dtype])
        there = mapped(case.manifold.retract, x, v)
        assert same_element(name, there, y) < 30 * EPS[dtype]


@every_manifold
def test_slope_of_retract_has_full_rank_and_is_that_of_differences(name, rng):
    case = CASES[name]
    retract = jax.jit(case.manifold.retract)
    slopes = [jax.jit(jac(retract, argnums=1)) for jac in (jax.jacfwd, jax.jacrev)]
    slope_of_local = jax.jit(jax.jacfwd(case.manifold.local, argnums=1))
    h, zero = 1e-5, np.zeros(case.manifold.tangent_size)
    for _ in range(5):
        x = case.draw(rng)
        slope, reverse = (np.asarray(s(x, zero)) for s in slopes)
        ahead, behind = (
            [np.asarray(retract(x, step)) for step in sign * h * np.eye(zero.size)]
            for sign in (1.0, -1.0)
        )
        differences = np.subtract(ahead, behind) / (2 * h)
        np.testing.assert_allclose(slope, differences.T, atol=1e-9)
        np.testing.assert_allclose(slope, reverse, atol=1e-14)
        assert np.linalg.matrix_rank(slope) == zero.size
        back = slope_of_local(x, x) @ slope
        np.testing.assert_allclose(back, np.eye(zero.size), atol=1e-13)


def special_elements(case, rng, dtype):
    """Yield elements where formulas may divide by zero."""
    yield case.draw(rng).astype(dtype)
    if case.identity:
        yield np.array(case.identity, dtype)
        return
    for sign in (1.0, -1.0):
        pole = np.zeros(case.manifold.size, dtype)
        pole[-1] = sign
        yield pole
        yield np.roll(pole, 1)


@every_manifold
@every_dtype
def test_derivatives_are_finite_everywhere(name, dtype, rng):
    case = CASES[name]
    manifold = case.manifold
    size = manifold.size
    both = jax.jit(lambda x, v: (x, manifold.retract(x, v)))
    local = lambda xy: manifold.local(xy[:size], xy[size:])
    retract = lambda xv: manifold.retract(xv[:size], xv[size:])
    finite = {f: finite_derivatives(f) for f in (local, retract)}
    angles = (0.0, 1e-30, 1e-5, PI - 1e-6, PI)
    for x in special_elements(case, rng, dtype):
        for angle in angles:
            v = steps(case, rng, angle, 1, dtype)[0]
            if angle == PI:  # along an axis the other element is exactly opposite
                v[case.turn] = 0.0
                v[case.turn.start] = PI
            assert finite[local](np.concatenate(both(x, v))), (x, angle)
            assert finite[retract](np.concatenate([x, v])), (x, angle)
        assert finite[local](np.concatenate([x, x]))
        assert finite[retract](np.concatenate([x, np.zeros_like(v)]))


def finite_derivatives(f):
    """Return a compiled test that f, its slope and its curvature are finite."""

    @jax.jit
    def test(x):
        found = [f(x), jax.jacfwd(f)(x), jax.jacrev(f)(x), jax.hessian(f)(x)]
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in found]))

    return test


@pytest.mark.parametrize("name", ["SO3", "SE3", "Sphere2", "Sphere3", "Sphere7"])
@every_dtype
def test_length_stays_one(name, dtype, rng):
    case = CASES[name]
    part = slice(-4, None) if name in ("SO3", "SE3") else slice(None)
    vs = steps(case, rng, 0.3, 10_000, dtype)
    step = lambda x, v: (case.manifold.retract(x, v), None)
    x, _ = jax.jit(lambda x: jax.lax.scan(step, x, vs))(case.draw(rng).astype(dtype))
    assert abs(np.linalg.norm(x[part].astype(np.float64)) - 1.0) <= 2 * EPS[dtype]


@pytest.mark.parametrize("name", [name for name in CASES if name not in GROUPS])
def test_opposite_points_are_half_a_turn_apart(name, rng):
    case = CASES[name]
    local, retract = jax.jit(case.manifold.local), jax.jit(case.manifold.retract)
    for dtype in EPS:
        for x in special_elements(case, rng, dtype):
            v = local(x, -x)
            np.testing.assert_allclose(np.linalg.norm(v), PI, rtol=2 * EPS[dtype])
            there = retract(x, v)
            np.testing.assert_allclose(there, -x, atol=4 * EPS[dtype])


def test_the_basis_of_a_tangent_plane_is_orthonormal(rng):
    case = CASES["Sphere7"]
    slope = jax.jit(jax.jacfwd(case.manifold.retract, argnums=1))
    for x in special_elements(case, rng, np.float64):
        basis = np.asarray(slope(x, np.zeros(6)))
        np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-15)
        np.testing.assert_allclose(x @ basis, np.zeros(6), atol=1e-15)


@every_group
@every_dtype
def test_exp_is_that_of_matrices_and_log_its_inverse(name, dtype, rng):
    case = CASES[name]
    for angle in ANGLES:
        v = steps(case, rng, angle, 10, dtype)
        x = mapped(case.manifold.exp, v)
        for one, step in zip(x.astype(np.float64), v.astype(np.float64), strict=True):
            expected = scipy.linalg.expm(case.algebra(step))
            atol = 10 * EPS[dtype] + 1e-14  # of expm itself
            np.testing.assert_allclose(case.matrix(one), expected, rtol=0, atol=atol)
        back = mapped(case.manifold.log, x)
        assert back.dtype == dtype
        np.testing.assert_allclose(back, v, rtol=0, atol=30 * EPS[dtype])


@every_group
def test_group_identities(name, rng):
    case, count = CASES[name], 20
    group = case.manifold
    x, y, z = (draw_many(case, rng, count, np.float64) for _ in range(3))
    compose, inverse, between = (
        lambda *args, method=method: mapped(method, *args)
        for method in (group.compose, group.inverse, group.between)
    )
    matrices = lambda elements: np.stack([case.matrix(one) for one in elements])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-14)
    identity = np.tile(case.identity, (count, 1))
    xy = compose(x, y)
    close(matrices(xy), matrices(x) @ matrices(y))
    close(compose(x, inverse(x)), identity)
    close(compose(inverse(x), x), identity)
    close(compose(xy, z), compose(x, compose(y, z)))
    close(between(x, y), compose(inverse(x), y))
    close(between(x, xy), y)
    size = 2 if name.endswith("2") else 3
    points = rng.normal(size=(count, size))
    ones = np.ones((count, matrices(x).shape[-1] - size))
    expected = matrices(x) @ np.concatenate([points, ones], axis=1)[..., None]
    close(mapped(group.apply, x, points), expected[:, :size, 0])


def exact_log(q):
    """Return the rotation vector of a quaternion, by mpmath with 50 digits."""
    q = [mpmath.mpf(float(value)) for value in q]
    w, *u = [-value for value in q] if q[0] < 0 else q
    length = mpmath.sqrt(sum(value**2 for value in u))
    factor = 2 * mpmath.atan2(length, w) / length if length else 2 / w
    return np.array([float(factor * value) for value in u])


@every_dtype
def test_log_of_a_rotation_is_good_to_the_last_digits(dtype, rng):
    log = jax.jit(SO3().log)
    for angle in (1e-12, 1e-5, 1e-2, 0.28, 1.0, 3.0, PI - 1e-3, PI - 1e-6, PI + 1e-6):
        axis = random_unit(rng, 3)
        q = np.append(np.cos(angle / 2), np.sin(angle / 2) * axis).astype(dtype)
        with mpmath.workdps(50):
            expected = exact_log(q)
        error = np.linalg.norm(np.asarray(log(q)) - expected)
        assert error <= 3 * EPS[dtype] * np.linalg.norm(expected)


def test_rotations_are_those_of_scipy(rng):
    q, v = draw_many(CASES["SO3"], rng, 50, np.float64), rng.normal(size=(50, 3))
    rotation = Rotation.from_quat(q, scalar_first=True)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=4e-15)
    close(mapped(SO3().log, q), rotation.as_rotvec())
    close(mapped(SO3().apply, q, v), rotation.apply(v))
    expected = (rotation * Rotation.from_rotvec(v)).as_quat(scalar_first=True)
    assert same_element("SO3", mapped(SO3().retract, q, v), expected) < 4e-15


@jax.jit
def there_and_back(v):
    f = lambda v: SE3().log(SE3().exp(v))
    return jax.jacfwd(f)(v), jax.hessian(f)(v)


@pytest.mark.parametrize("turn", [0.0, 1e-9, 1e-6, 1e-3, 0.3, 0.7, 2.0, 3.1])
def test_derivatives_of_the_logarithm_of_a_pose(turn, rng):
    """Those of log(exp(v)) are the identity and zero: nothing is lost near zero."""
    v = steps(CASES["SE3"], rng, turn, 1, np.float64)[0]
    slope, curvature = there_and_back(v)
    np.testing.assert_allclose(slope, np.eye(6), rtol=0, atol=1e-13)
    np.testing.assert_allclose(curvature, np.zeros((6, 6, 6)), atol=1e-12)


def test_slope_of_log_at_a_half_turn():
    """Where the real part is zero, too, it takes part in the slope."""
    slope = jax.jit(jax.jacfwd(SO3().log))(np.array([0.0, 1.0, 0.0, 0.0]))
    expected = np.zeros((3, 4))
    expected[0, 0], expected[1, 2], expected[2, 3] = -2.0, PI, PI
    np.testing.assert_allclose(slope, expected, atol=1e-15)


@every_dtype
def test_angles_are_wrapped_into_their_interval(dtype):
    pi, turn = dtype(PI), dtype(2 * PI)
    ends = [np.nextafter(pi, dtype(s)) for s in (0.0, 4.0)]
    angles = np.array([pi, -pi, *ends, *(-e for e in ends), 3 * pi, 1e-20, 7 * turn])
    wrapped = mapped(SO2().log, angles[:, None].astype(dtype))[:, 0]
    assert np.all((wrapped >= -pi) & (wrapped < pi))
    assert wrapped[0] == -pi
    assert wrapped[7] == dtype(1e-20)
    np.testing.assert_allclose(np.sin(wrapped), np.sin(angles), atol=30 * EPS[dtype])


@pytest.mark.parametrize("derivative", [lambda f: f, jax.jacfwd], ids=["f", "jacfwd"])
def test_a_residual_of_poses_is_a_short_program(derivative):
    residual = lambda x, y: SE3().log(SE3().between(x, y))
    x = jnp.array(CASES["SE3"].identity)
    jaxpr = jax.make_jaxpr(derivative(residual))(x, x)
    assert len(jaxpr.eqns) < 700


def test_manifolds_are_static():
    for case in CASES.values():
        assert jax.tree.leaves(case.manifold) == []
        assert type(case.manifold.size) is type(case.manifold.tangent_size) is int
    assert hash(Sphere(4)) == hash(Sphere(4))


def test_what_is_no_element_is_refused():
    with pytest.raises(ValueError, match=r"\(7,\).*\(5, 7\).*vmap"):
        SE3().log(jnp.zeros((5, 7)))
    with pytest.raises(ValueError, match=r"\(4,\).*\(3,\)"):
        SO3().compose(jnp.zeros(3), jnp.zeros(4))
    with pytest.raises(ValueError, match="at least 2"):
        Sphere(1)
