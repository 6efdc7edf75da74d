"""The fused engine: the same fits as by XLA, the same bits in any company."""

import os
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from model_table import SPECS
from processes import run_python

import lmjax
from lmjax import Engine, LevenbergMarquardt
from lmjax._jax import machine

pytest.importorskip("llvmlite", reason="the fused engine is made by llvmlite")

T = np.linspace(0.0, 4.0, 30)
FUSED = LevenbergMarquardt(engine="fused")


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t) + p["c"]


START = {"a": 1.0, "k": 1.0, "c": 0.0}


def curves(count, seed=1):
    rng = np.random.default_rng(seed)
    a, c = rng.uniform(0.5, 3.0, (2, count, 1))
    k = 10 ** rng.uniform(-1.0, 0.7, (count, 1))
    return a * np.exp(-k * T) + c + 0.02 * rng.normal(size=(count, T.size))


def summary(fit):
    return fit.params, fit.cost, fit.status, fit.num_steps, fit.engine


def fit_one(y):
    return summary(lmjax.curve_fit(decay, T, y, START, solver=FUSED))


BATCH = jax.jit(jax.vmap(fit_one))


@pytest.mark.one_of(3)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_model_of_the_library_reaches_the_minimum_of_scipy(spec):
    rng = np.random.default_rng(2)
    p = spec.draw(rng, 6)
    exact = np.stack([spec.formula(spec.x, *row) for row in p])
    y = exact * (1.0 + 0.01 * rng.normal(size=exact.shape))
    start = p * (1.0 + 0.03 * rng.normal(size=p.shape))
    fit = lambda y, model: lmjax.curve_fit(model, spec.x, y, solver=FUSED)
    got = jax.jit(jax.vmap(lambda y, m: summary(fit(y, m))))(y, spec.build(start))
    assert (got[-1] == Engine.FUSED).all()
    assert (np.asarray(got[2]) > 0).mean() > 0.8
    for row in range(len(y)):
        residual = lambda q, row=row: np.ravel(spec.formula(spec.x, *q) - y[row])
        with np.errstate(all="ignore"):
            peer = scipy.optimize.least_squares(residual, start[row], x_scale="jac")
        if got[2][row] > 0 and peer.success:
            assert got[1][row] <= peer.cost * (1.0 + 1e-7)


@pytest.mark.parametrize("engine", ["xla", "loop"])
def test_other_engines_find_the_same(engine):
    y = curves(40)
    solver = LevenbergMarquardt(engine=engine)
    other = lambda y: summary(lmjax.curve_fit(decay, T, y, START, solver=solver))
    got, expected = BATCH(y), jax.jit(jax.vmap(other))(y)
    assert (expected[-1] == Engine[engine.upper()]).all()
    assert (got[-1] == Engine.FUSED).all()
    np.testing.assert_array_equal(got[2] > 0, expected[2] > 0)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-9)
    if engine == "xla":  # the same equations and the same rules
        np.testing.assert_allclose(got[3], expected[3], atol=1)


def test_bits_do_not_depend_on_the_company():
    y = curves(700)
    whole = jax.tree.map(np.asarray, BATCH(y))
    for picked in (slice(0, 1), slice(5, 22), slice(333, 700), [690, 3, 3, 77]):
        part = jax.tree.map(np.asarray, BATCH(y[picked]))
        same = jax.tree.map(lambda x: x[picked], whole)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, part, same)


def test_bits_do_not_depend_on_the_number_of_threads():
    code = (
        "import os, sys, hashlib\n"
        "one = [min(os.sched_getaffinity(0))]\n"
        "if sys.argv[1] == 'one': os.sched_setaffinity(0, one)\n"
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "sys.path.insert(0, 'tests')\n"
        "import numpy as np\n"
        "from test_fused import BATCH, curves\n"
        "out = jax.tree.leaves(BATCH(curves(3000)))\n"
        "bits = b''.join(np.asarray(x).tobytes() for x in out)\n"
        "print(hashlib.sha256(bits).hexdigest())"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not bind a process to a core")
    assert run_python("-c", code, "one") == run_python("-c", code, "all")


def test_several_threads_may_call_at_once():
    y = curves(900)
    expected = jax.tree.map(np.asarray, BATCH(y))
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: jax.tree.map(np.asarray, BATCH(y)), range(12)):
            jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_poisoned_fit_leaves_the_others_alone():
    y = curves(64)
    before = jax.tree.map(np.asarray, BATCH(y))
    for poison in (np.nan, np.inf, 1e300):
        spoiled = y.copy()
        spoiled[17, 4] = poison
        after = jax.tree.map(np.asarray, BATCH(spoiled))
        keep = np.arange(64) != 17
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a[keep], b[keep]),  # noqa: B023
            before,
            after,
        )
    assert after[2][17] < 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_may_differ_per_fit(dtype, rng):
    count = 24
    x = {"t": (T * rng.uniform(0.8, 1.2, (count, 1))).astype(dtype)}
    p = rng.uniform(0.5, 2.0, (count, 3)).astype(dtype)
    y = (p[:, :1] * np.exp(-p[:, 1:2] * x["t"]) + p[:, 2:]).astype(dtype)
    y += (0.01 * rng.normal(size=y.shape)).astype(dtype)
    given = {
        "x": x,
        "y": y,
        "sigma": rng.uniform(0.5, 2.0, y.shape).astype(dtype),
        "mask": rng.uniform(size=y.shape) > 0.1,
        "start": (p * rng.uniform(0.8, 1.2, p.shape)).astype(dtype),
        "low": np.full(p.shape, 0.1, dtype),
        "fixed": rng.uniform(size=p.shape) > 0.8,
        "scale": rng.uniform(1.0, 2.0, count).astype(dtype),
        "ftol": np.full(count, 1e-9, dtype),
    }
    model = lambda p, x: p[0] * jnp.exp(-p[1] * x["t"]) + p[2]

    def fit(given, engine):
        solver = LevenbergMarquardt(ftol=given["ftol"], engine=engine)
        return summary(
            lmjax.curve_fit(
                model,
                given["x"],
                given["y"],
                given["start"],
                sigma=given["sigma"],
                mask=given["mask"],
                bounds=(given["low"], None),
                fixed=given["fixed"],
                loss="huber",
                loss_scale=given["scale"],
                solver=solver,
            )
        )

    with jax.numpy_dtype_promotion("standard"):
        got = jax.jit(jax.vmap(lambda g: fit(g, "fused")))(given)
        expected = jax.jit(jax.vmap(lambda g: fit(g, "loop")))(given)
    rtol = 1e-9 if dtype == "float64" else 1e-3
    np.testing.assert_array_equal(got[2] > 0, expected[2] > 0)
    np.testing.assert_allclose(got[1], expected[1], rtol=rtol)


def test_two_axes_of_points_and_an_axis_of_their_own():
    """An image whose x is a pair of axes: each point reads its row and its column."""
    rows, columns = np.arange(7.0), np.arange(9.0)

    def spot(p, x):
        down, across = x
        shape = jnp.exp(-((down[:, None] - p[1]) ** 2) - (across[None, :] - p[2]) ** 2)
        return p[0] * shape

    true = np.array([[2.0, 3.1, 4.2], [1.0, 2.0, 5.0]])
    images = np.stack([np.asarray(spot(p, (rows, columns))) for p in true])
    start = np.array([1.5, 2.8, 4.6])
    fit = lambda y: summary(
        lmjax.curve_fit(spot, (rows, columns), y, start, solver=FUSED)
    )
    got = jax.jit(jax.vmap(fit))(images)
    np.testing.assert_allclose(got[0], true, rtol=1e-8)


X = np.arange(12.0).reshape(3, 4)
# Each is a line through X in some order of its elements: NumPy fits it.
ORDERS = {
    "columns first": (lambda z: z.ravel(order="F"), X.ravel(order="F")),
    "turned": (lambda z: jax.lax.reshape(z, (12,), (1, 0)), X.T.ravel()),
    "three axes": (
        lambda z: jax.lax.reshape(z.reshape(3, 2, 2), (12,), (1, 2, 0)),
        X.reshape(3, 2, 2).transpose(1, 2, 0).ravel(),
    ),
    "twice": (
        lambda z: z.reshape(2, 6, order="F").ravel(order="F"),
        X.ravel(order="F"),
    ),
}


@pytest.mark.one_of(2)
@pytest.mark.parametrize("engine", [None, "xla", "loop"])
@pytest.mark.parametrize("name", ORDERS)
def test_points_may_come_in_another_order(name, engine):
    ordered, x = ORDERS[name]
    y = np.random.default_rng(2).normal(size=(3, 12))
    model = lambda p, x: ordered(p["slope"] * x + p["zero"])
    solver = LevenbergMarquardt(engine=engine)
    start = {"slope": 1.0, "zero": 0.0}
    fit = lambda y: lmjax.curve_fit(model, X, y, start, solver=solver).params
    got = jax.jit(jax.vmap(fit))(y)
    slope, zero = np.polyfit(x, y.T, 1)
    np.testing.assert_allclose(got["slope"], slope, rtol=1e-7)
    np.testing.assert_allclose(got["zero"], zero, rtol=1e-7)


def test_a_product_of_parameters_in_another_order():
    a = np.random.default_rng(4).normal(size=(9, 6))
    y = np.random.default_rng(5).normal(size=(3, 9))
    model = lambda p, a: a @ p.ravel(order="F")
    fit = lambda y: lmjax.curve_fit(model, a, y, np.ones((2, 3)), solver=FUSED).params
    got = jax.jit(jax.vmap(fit))(y)
    best = np.linalg.lstsq(a, y.T, rcond=None)[0].T
    np.testing.assert_allclose(np.swapaxes(got, 1, 2).reshape(3, 6), best, rtol=1e-7)


def test_twenty_parameters():
    x = np.linspace(0.0, 20.0, 120)
    centres = np.linspace(1.0, 19.0, 6)

    def peaks(p, x):
        bells = [
            p[3 * j] * jnp.exp(-(((x - p[3 * j + 1]) / p[3 * j + 2]) ** 2))
            for j in range(6)
        ]
        return sum(bells[1:], bells[0]) + p[18] + p[19] * x

    rng = np.random.default_rng(0)
    true = np.zeros((4, 20))
    true[:, 0:18:3] = rng.uniform(1.0, 3.0, (4, 6))
    true[:, 1:18:3] = centres + rng.uniform(-0.2, 0.2, (4, 6))
    true[:, 2:18:3] = rng.uniform(0.6, 1.0, (4, 6))
    true[:, 18:] = [0.5, 0.01]
    y = np.stack([np.asarray(peaks(p, x)) for p in true])
    start = np.array([2.0, 0.0, 0.8] * 6 + [0.3, 0.0])
    start[1:18:3] = centres
    fit = lambda y: summary(lmjax.curve_fit(peaks, x, y, start, solver=FUSED))
    got = jax.jit(jax.vmap(fit))(y)
    assert (got[2] > 0).all()
    np.testing.assert_allclose(got[0], true, rtol=1e-6, atol=1e-8)


REASONS = {
    "it calls": lambda p, t: p["a"] * jnp.interp(t, t + p["k"], t),
    "complex": lambda p, t: jnp.abs(jax.lax.complex(p["a"] * t, p["k"] * t)),
    "loops": lambda p, t: jax.lax.while_loop(
        lambda c: jnp.all(c < 4.0), lambda c: c * 2.0, p["a"] + t * p["k"] + 5.0
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_does_not_fit_is_explained(reason):
    start = {"a": 1.0, "k": 1.0}
    model = REASONS[reason]
    fit = lambda y, solver: lmjax.curve_fit(model, T, y, start, solver=solver)
    y = curves(3)
    told = lmjax.explain(lambda y: fit(y, LevenbergMarquardt()).params, y)
    assert told.startswith("xla: not fused, because")
    assert reason in told
    with pytest.raises(ValueError, match="engine='fused' cannot run this fit"):
        lmjax.explain(lambda y: fit(y, FUSED).params, y)


def test_a_zero_of_the_model_keeps_nan():
    """Only the zeros of unit vectors vanish; a guard written 0 * f(p) is one."""
    model = lambda p, t: p[0] * t + p[1] + 0.0 * jnp.sqrt(1.6 - p[0])
    y = np.tile(1.8 * T + 0.7, (3, 1))

    def fit(y, engine):
        solver = LevenbergMarquardt(engine=engine)
        return summary(
            lmjax.curve_fit(model, T, y, np.array([1.0, 0.0]), solver=solver)
        )

    got = jax.vmap(lambda y: fit(y, "fused"))(y)
    expected = jax.vmap(lambda y: fit(y, "loop"))(y)
    assert np.isfinite(np.asarray(jax.vmap(lambda p: model(p, T))(got[0]))).all()
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(got[2] > 0, expected[2] > 0)


def test_a_sum_begins_where_it_is_told():
    grid = np.random.default_rng(1).random((24, 3))

    def model(p, x):
        total = jax.lax.reduce(x, jnp.asarray(5.0, x.dtype), jax.lax.add, (1,))
        return p[0] * total + p[1] * x[:, 0]

    true = np.array([1.5, 0.7])
    y = np.tile(np.asarray(model(true, grid)), (3, 1))
    fit = lambda y: lmjax.curve_fit(model, grid, y, 1.1 * true, solver=FUSED).params
    np.testing.assert_allclose(jax.vmap(fit)(y), np.tile(true, (3, 1)), rtol=1e-7)


KEY = jax.random.key(0)
ODD = {
    "it loops at each point": lambda p, t: jax.lax.fori_loop(
        0, 50, lambda i, z: z - 0.1 * (z - p["a"] * jnp.exp(-p["k"] * z)), t
    ),
    "it loops within a loop": lambda p, t: jax.lax.scan(
        lambda c, x: 2 * (jax.lax.fori_loop(0, 50, lambda i, c: c * p["k"] + x, c),),
        p["a"],
        t,
    )[1],
    "fewer bits": lambda p, t: p["a"] * jax.lax.reduce_precision(t, 8, 3) + p["k"],
    "key<": lambda p, t: p["a"] * t + p["k"] + jax.random.normal(KEY, t.shape),
    "it calls debug_print": lambda p, t: (
        jax.debug.print("{}", p["a"], ordered=False) or p["a"] * t + p["k"]
    ),
    "loops 0 times": lambda p, t: (
        p["a"] * t + p["k"] + jax.lax.scan(lambda c, _: (c, c), t, None, 0)[1].sum()
    ),
    "equations": lambda p, t: jax.lax.fori_loop(
        0,
        30,
        lambda i, z: jax.lax.fori_loop(
            0,
            30,
            lambda j, z: jax.lax.fori_loop(
                0, 30, lambda k, z: jnp.sin(z) + p["k"] * z, z
            ),
            z,
        ),
        p["a"] * t,
    ),
}


@pytest.mark.parametrize("reason", ODD)
def test_odd_models_are_left_to_xla(reason):
    fit = lambda y: lmjax.curve_fit(ODD[reason], T, y, {"a": 1.0, "k": 1.0}).params
    told = lmjax.explain(fit, curves(3))
    assert told.startswith("xla: not fused, because")
    assert reason in told


OBSTACLES = {
    "30 parameters are more than 24": (30, {}),
    "8 parameters are more than 6 residuals": (8, {"points": 6}),
    "chosen does not work with J^T J alone": (3, {"linear_solver": lmjax.QR()}),
    "in reverse mode": (3, {"jac": "rev"}),
    "history of the steps": (3, {"record_history": True, "max_steps": 9}),
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_what_stands_in_the_way_of_a_batch_is_said(reason):
    n, options = OBSTACLES[reason]
    options = dict(options)
    x = np.linspace(0.0, 1.0, options.pop("points", 40))
    model = lambda p, x: sum((p[k] * x**k for k in range(1, n)), p[0])

    def fit(y, engine):
        solver = LevenbergMarquardt(engine=engine, **options)
        return lmjax.curve_fit(model, x, y, np.ones(n), solver=solver).params

    y = np.ones((3, len(x)))
    told = lmjax.explain(lambda y: fit(y, None), y)
    assert told.startswith("loop: not fused, because")
    assert reason in told
    with pytest.raises(ValueError, match="engine='fused' cannot run this fit"):
        lmjax.explain(lambda y: fit(y, "fused"), y)


def test_engine_is_one_of_those_that_there_are():
    with pytest.raises(ValueError, match="engine: expected one of"):
        LevenbergMarquardt(engine="gpu")


def test_explain_names_what_runs():
    told = lmjax.explain(lambda y: fit_one(y)[0], curves(5))
    assert told == (
        "fused: one machine program for 5 fits of 3 parameters to 30 points"
    )
    one = lmjax.explain(lambda y: y.sum(), curves(5))
    assert one == "loop: no batch of fits that an engine takes"
    with pytest.raises(TypeError, match="fit_one: expected a function"):
        lmjax.explain(3, curves(5))


def test_without_llvmlite_xla_runs():
    code = (
        "import sys\n"
        "sys.modules['llvmlite'] = sys.modules['llvmlite.binding'] = None\n"
        "import jax, jax.numpy as jnp, numpy as np, lmjax\n"
        "fit = lambda y: lmjax.least_squares(lambda p, y: p - y, jnp.zeros(1), (y,))\n"
        "rows = np.ones((3, 1), 'f4')\n"
        "print(int(jax.vmap(fit)(rows).engine[0]))\n"
        "print(lmjax.explain(fit, rows))"
    )
    out = run_python("-c", code).splitlines()
    assert out[0] == str(int(Engine.XLA))
    assert out[1] == "xla: not fused, because llvmlite is not installed"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "triple", ["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"]
)
def test_other_processors_can_be_assembled_for(triple, dtype, monkeypatch):
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    texts = []
    monkeypatch.setattr(machine, "vector_bytes", lambda: 16)
    monkeypatch.setattr(
        machine, "assemble", lambda text, effort: texts.append(text) or "none"
    )
    y = curves(3).astype(dtype)
    t, start = T.astype(dtype), np.ones(3, dtype)
    model = lambda p, t: p[0] * jnp.exp(-p[1] * t) + jnp.sin(p[2] * t)
    fit = lambda y: lmjax.curve_fit(model, t, y, start, solver=FUSED).params
    with jax.numpy_dtype_promotion("standard"):
        lmjax.explain(fit, y)
    module = llvm.parse_assembly(texts[0].replace("VERSION", "3"))
    module.triple = triple
    module.verify()
    target = llvm.Target.from_triple(triple).create_target_machine(opt=2)
    assembly = target.emit_assembly(module)
    assert "handler:" in assembly
    registers = "v0" if "aarch64" in triple else "xmm0"
    assert registers in assembly


def test_program_that_llvm_refuses_is_left_to_xla(monkeypatch):
    monkeypatch.setattr(machine, "assembled", lambda text, effort: llvm_error())

    def llvm_error():
        raise RuntimeError("no such instruction")

    model = lambda p, t: p["a"] * jnp.exp(-p["k"] * t * 1.5) + p["c"]
    fit = lambda y: lmjax.curve_fit(model, T, y, START).params
    told = lmjax.explain(fit, curves(3))
    assert told == (
        "xla: not fused, because LLVM refuses the program: no such instruction"
    )


def test_it_runs_where_jit_is_switched_off():
    y = curves(3)
    expected = BATCH(y)
    with jax.disable_jit(), jax.numpy_dtype_promotion("standard"):
        got = jax.vmap(lambda y: fit_one(y)[0]["k"])(y)
    np.testing.assert_allclose(got, expected[0]["k"], rtol=1e-9)


def test_gradients_pass_through():
    y = curves(8)
    total = lambda y: jnp.sum(jax.vmap(lambda y: fit_one(y)[0]["k"])(y))
    got = jax.jit(jax.grad(total))(y)
    step = 1e-5
    for row, point in ((0, 3), (5, 20)):
        moved = [y.copy(), y.copy()]
        moved[0][row, point] += step
        moved[1][row, point] -= step
        up, down = (float(total(m)) for m in moved)
        np.testing.assert_allclose(got[row, point], (up - down) / (2 * step), rtol=1e-5)
