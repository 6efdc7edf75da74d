"""Equal functions share what was compiled; nobody gets the answer of another."""

import builtins
import dataclasses
import gc
import sys
import types
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import lmjax
from lmjax._fit import curve_fit, global_fit, least_squares
from lmjax._jax import program_cache
from lmjax._jax.closures import Program
from lmjax._jax.program_cache import Fresh

T = np.linspace(0.0, 3.0, 8)
Y = 2.0 * np.exp(-0.7 * T)
START = {"a": 1.0, "k": 1.0}


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t)


def compiled():
    """Return how many programs of each door jax holds."""
    doors = (curve_fit, least_squares, global_fit)
    return sum(door._fit._cache_size() for door in doors)


def fit(model, start=START, **options):
    return lmjax.curve_fit(model, T, Y, start, **options)


def compiles(call, *first):
    """Return how many programs a call adds to those of the first ones."""
    for one in first:
        one()
    before = compiled()
    call()
    return compiled() - before


class Instrument:
    """A model as a method, with numbers and arrays of its own."""

    def __init__(self, delay, background):
        self.delay, self.background = delay, background

    def model(self, p, t):
        return decay(p, t - self.delay) + self.background

    __call__ = model


@dataclasses.dataclass
class Unhashable:
    """A dataclass with ``==``, which Python cannot hash."""

    delay: float

    def __call__(self, p, t):
        return decay(p, t - self.delay)


def shifted(delay):
    return lambda p, t: decay(p, t - delay)


def weighted(weights):
    return lambda p, t: decay(p, t) * weights


def with_delay(delay, p, t):
    return decay(p, t - delay)


KINDS = {
    "lambda": lambda k: lambda p, t: decay(p, t - jnp.asarray(k)),
    "closure over a number": lambda k: shifted(k),
    "closure over an array": lambda k: weighted(np.exp(0.7 * k) * np.ones(8)),
    "closure over an array of jax": lambda k: weighted(
        jnp.exp(jnp.array(0.7 * k)) * jnp.ones(8)
    ),
    "bound method": lambda k: Instrument(k, np.zeros(8)).model,
    "callable object": lambda k: Instrument(k, np.zeros(8)),
    "partial": lambda k: partial(with_delay, k),
    "dataclass": lambda k: Unhashable(k),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_equal_functions_are_compiled_once_and_keep_their_own_values(make):
    fits = []

    def each():
        fits.extend(fit(make(k)) for k in (0.1, 0.2))

    assert compiles(each, lambda: fit(make(0.0))) == 0
    for k, result in zip((0.1, 0.2), fits, strict=True):
        # another delay is another amplitude
        assert float(result.params["a"]) == pytest.approx(2.0 * np.exp(-0.7 * k))
        curve = make(k)(result.params, T)
        np.testing.assert_allclose(result.predict(T), curve, rtol=1e-12)


def test_a_lambda_in_a_loop_is_not_even_traced_again():
    tracing = []

    class Counted:
        def __call__(self, p, t):
            tracing.append(1)
            return decay(p, t)

    model = Counted()
    fit(lambda p, t: model(p, t))  # an object, which may change: traced
    first = len(tracing)
    fit(lambda p, t: model(p, t))
    assert len(tracing) == first + 1  # traced, and not compiled
    before = len(program_cache._codes)
    for _ in range(3):
        fit(lambda p, t: decay(p, t))
    assert len(program_cache._codes) <= before + 1


def with_offset():
    return fit(lambda p, t: decay(p, t) + OFFSET)


@pytest.mark.parametrize("kind", [float, np.asarray])
def test_what_a_lambda_reads_is_seen_when_it_is_written_anew(kind):
    global OFFSET
    values = []
    for offset in (0.0, 0.5):
        OFFSET = kind(offset)
        values.append(float(with_offset().cost))
    assert values[0] < 1e-20 < 1e-3 < values[1]


SIBLINGS = {
    "literal": (lambda p, t: decay(p, t) * 1.0, lambda p, t: decay(p, t) * 2.0),
    "inner literal": (
        lambda p, t: jax.jit(lambda f: f * 1.0)(decay(p, t)),
        lambda p, t: jax.jit(lambda f: f * 2.0)(decay(p, t)),
    ),
    "axis": (
        lambda p, t: decay(p, t) + 0.0 * jnp.ones((3, 8)).sum(0),
        lambda p, t: decay(p, t) * jnp.ones((2, 8)).sum(0),
    ),
    "branch": (
        lambda p, t: jax.lax.cond(
            t[0] < 1.0, lambda f: f, lambda f: 2.0 * f, decay(p, t)
        ),
        lambda p, t: jax.lax.cond(
            t[0] < 1.0, lambda f: 2.0 * f, lambda f: f, decay(p, t)
        ),
    ),
}


@pytest.mark.parametrize("pair", SIBLINGS.values(), ids=SIBLINGS.keys())
def test_siblings_get_their_own_answers(pair):
    one, two = (float(fit(model).params["a"]) for model in pair)
    assert one == pytest.approx(2.0)
    assert two == pytest.approx(1.0)


def test_residuals_jacobians_and_losses_share_programs_too():
    def run(scale):
        solver = lmjax.LevenbergMarquardt(
            jac=lambda p, t, y: jax.jacfwd(lambda p: scale * decay(p, t) - y)(p)
        )
        return lmjax.least_squares(
            lambda p, t, y: scale * decay(p, t) - y,
            START,
            (T, Y),
            loss=lambda z: scale * jnp.log1p(z / scale),
            solver=solver,
        )

    assert compiles(lambda: run(4.0), lambda: run(2.0)) == 0
    assert float(run(4.0).params["a"]) == pytest.approx(0.5)
    assert run(4.0).jacobian == "user"


def test_global_fits_share_programs_too():
    curves = np.stack([Y, 2.0 * Y])

    def run(delay):
        return lmjax.global_fit(
            shifted(delay), T, curves, START, shared={"k": True}
        ).params["a"]

    assert compiles(lambda: run(0.2), lambda: run(0.1)) == 0
    expected = 2.0 * np.exp(-0.14) * np.array([1.0, 2.0])
    np.testing.assert_allclose(run(0.2), expected, rtol=1e-6)


def test_derivatives_reach_what_a_fresh_function_closes_over():
    def amplitude(delay):
        return fit(lambda p, t: decay(p, t - delay)).params["a"]

    exact = lambda k: -1.4 * np.exp(-0.7 * k)
    for k in (0.1, 0.3):
        assert float(jax.grad(amplitude)(k)) == pytest.approx(exact(k), rel=1e-6)
        assert float(jax.jit(jax.grad(amplitude))(k)) == pytest.approx(exact(k))
    delays = jnp.array([0.1, 0.3])
    batch = jax.vmap(amplitude)(delays)
    np.testing.assert_allclose(batch, 2.0 * jnp.exp(-0.7 * delays), rtol=1e-8)
    assert not any(
        isinstance(leaf, jax.core.Tracer)
        for seen in program_cache._seen.values()
        for program in seen.programs.values()
        for leaf in jax.tree.leaves(program)
    )


def test_inside_jit_the_function_itself_is_used():
    seen = []

    def record(y):
        model = program_cache.model("model", decay, START, jnp.asarray(T), data=y)
        seen.append(type(model))
        return y

    jax.jit(record)(Y)
    jax.vmap(record)(Y[None])
    assert seen == [jax.tree_util.Partial, Program]


@pytest.mark.one_of(3)
@pytest.mark.parametrize(
    ("start", "data"),
    [("float", "float32"), ("float", "float64"), ("float32", "float32")],
)
def test_the_dtype_of_the_work_is_what_it_was(start, data):
    residual = lambda p, t: jnp.exp(-p * t) - 0.5 * t
    start = 1.0 if start == "float" else jnp.asarray(1.0, start)
    run = partial(lmjax.least_squares, residual, start)
    given = (jnp.asarray(T, data),)
    sol, inside = run(given), jax.jit(run)(given)
    assert sol.params.dtype == inside.params.dtype == data


def test_functions_and_their_arrays_are_forgotten():
    class Table(np.ndarray):
        """An array that can be referred to weakly."""

    table = np.ones(8).view(Table)

    def model(p, t):
        return decay(p, t) * jnp.asarray(np.asarray(table))

    refs = [weakref.ref(model), weakref.ref(table)]
    fit(model)
    fit(model)
    before = len(program_cache._seen)
    del model, table
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert len(program_cache._seen) < before


def test_tables_are_bounded():
    for k in range(1, 2 * program_cache.MOST_SHAPES):
        program_cache.function("loss", jnp.log1p, jnp.ones(k))
    seen = program_cache._seen[program_cache._identity(jnp.log1p)]
    assert len(seen.programs) == program_cache.MOST_SHAPES
    assert len(program_cache._codes) <= program_cache.MOST_CODES
    assert len(program_cache._written) <= program_cache.MOST_WRITTEN


@pytest.mark.parametrize("kind", ["closure", "attribute", "partial", "array"])
def test_a_frozen_value_that_changed_is_noticed_once(kind):
    table = np.zeros(8)
    device = Instrument(0.0, table)
    delay = 0.0
    given = partial(lambda p, t, delay: decay(p, t - delay), delay=table)
    model = {
        "closure": lambda p, t: decay(p, t - delay),
        "attribute": device.model,
        "partial": given,
        "array": lambda p, t: decay(p, t) + jnp.asarray(table),
    }[kind]
    first = fit(model)
    delay, device.delay = 0.5, 0.5
    table += 0.5
    named = {"attribute": r"self\.", "closure": "delay", "partial": "delay"}
    with pytest.warns(UserWarning, match=named.get(kind, "table")) as caught:
        second = fit(model)
    assert "through x or args" in str(caught[0].message)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(second.cost, first.cost)
    fit(model)  # a second warning would be an error


def test_a_counter_that_changes_nothing_is_not_complained_of():
    calls = 0

    def model(p, t):
        nonlocal calls
        calls += 1
        return decay(p, t)

    fit(model)
    calls += 10
    fit(model)


def test_a_fresh_function_sees_what_changed_and_is_not_compiled_again():
    table, device = np.zeros(8), Instrument(0.0, 0.0)
    model = lambda p, t: device.model(p, t) + jnp.asarray(table)
    costs = []

    def again():
        table[:] = 0.5
        costs.append(float(fit(Fresh(model)).cost))
        table[:], device.delay = 0.0, 0.3
        costs.append(float(fit(Fresh(model)).params["a"]))

    assert compiles(again, lambda: fit(Fresh(model))) == 0
    assert costs[0] > 1e-3
    assert costs[1] == pytest.approx(2.0 * np.exp(-0.21))


def test_profile_and_bootstrap_of_equal_functions():
    y = Y + 0.01 * np.cos(9.0 * T)

    def both(delay):
        fit = lmjax.curve_fit(shifted(delay), T, y, START)
        limits = lmjax.profile(fit, T, y, "k").interval
        boot = lmjax.bootstrap(jax.random.key(0), fit, T, y, num=3)
        assert boot.fit is fit
        return limits[0]["k"], boot.params["k"]

    first = both(0.1)
    counts = [f._cached._cache_size() for f in (lmjax._uncertainty.profile._profile,)]
    second = both(0.2)
    assert counts == [
        f._cached._cache_size() for f in (lmjax._uncertainty.profile._profile,)
    ]
    np.testing.assert_allclose(first[0], second[0], rtol=1e-6)
    np.testing.assert_allclose(first[1], second[1], rtol=1e-6)


# ---- what a function reads without naming it


def hidden_global():
    return lambda p, t: t * p * globals()["FACTOR"]


def hidden_eval():
    return lambda p, t: t * p * eval("FACTOR")


def hidden_import():
    def model(p, t):
        import factors

        return t * p * factors.value

    return model


def hidden_attribute():
    return lambda p, t: t * p * holder.factor


def hidden_state():
    return lambda p, t: t * p * np.random.uniform()  # noqa: NPY002  (the state is global)


def hidden_method():
    return lambda p, t: t * p * MEAN()


def holder():
    return None


FACTOR = 1.0
NORMAL = scipy.stats.norm(loc=1.0)
MEAN = NORMAL.mean


@pytest.mark.parametrize(
    "made",
    [
        hidden_global,
        hidden_eval,
        hidden_import,
        hidden_attribute,
        hidden_state,
        hidden_method,
    ],
)
def test_a_new_function_reads_what_it_does_not_name(made, monkeypatch):
    factors = types.ModuleType("factors")
    monkeypatch.setitem(sys.modules, "factors", factors)
    values = []
    for factor in (2.0, 3.0):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        monkeypatch.setitem(NORMAL.kwds, "loc", factor)
        factors.value = holder.factor = factor
        np.random.seed(int(factor))  # noqa: NPY002
        values.append(float(program_cache.model("model", made(), 1.0, T)(1.0, T)[-1]))
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.uniform() if made is hidden_state else 3.0  # noqa: NPY002
    assert values[1] == pytest.approx(expected * T[-1])


def test_the_names_of_globals_count_beside_their_values():
    code = compile("model = lambda p, t: p * sum(t) + abs(t)", "here", "exec")

    def written_with(**found):
        exec(code, found)
        return found["model"]

    double = lambda t: 2.0 * t
    models = written_with(sum=double), written_with(abs=double)
    one, other = (program_cache.model("model", m, 1.0, T)(1.0, T) for m in models)
    np.testing.assert_allclose(one, 2.0 * T + T)
    np.testing.assert_allclose(other, np.sum(T) + 2.0 * T)


def _rule(primals, tangents, scale):
    return primals[0] * primals[1], scale * tangents[0] * primals[1]


@dataclasses.dataclass(frozen=True)
class Table:
    """A host function that calls itself equal to others with the same name."""

    name: str
    values: tuple = dataclasses.field(compare=False)

    def __call__(self, t):
        return np.interp(t, [0.0, 3.0], self.values).astype(t.dtype)

    def model(self, p, t):
        like = jax.ShapeDtypeStruct(t.shape, t.dtype)
        shape = jax.pure_callback(self, like, t, vmap_method="sequential")
        return p["a"] * shape


def test_rules_that_differ_by_a_keyword_are_two_rules():
    def model(scale):
        product = jax.custom_jvp(lambda a, t: a * t)
        product.defjvp(partial(_rule, scale=scale))
        return lambda p, t: product(p["a"], t)

    one, two = (
        lmjax.curve_fit(model(scale), T, T + 0.1 * np.sin(9 * T), {"a": 1.0})
        for scale in (1.0, 2.0)
    )
    np.testing.assert_allclose(one.stderr["a"], 2.0 * two.stderr["a"], rtol=1e-5)


def test_host_functions_that_call_themselves_equal_are_two():
    for top in (3.0, 6.0):
        table = Table("t", (0.0, top))
        found = lmjax.curve_fit(lambda p, t, m=table: m.model(p, t), T, T, {"a": 1.0})
        np.testing.assert_allclose(found.params["a"], 3.0 / top, rtol=1e-5)


SLOPE = 1.0


def _line(scale, t):
    return scale * SLOPE * t


_mapped = jax.vmap(partial(_line, 1.0))


@pytest.mark.parametrize("kind", ["mapped", "file", "built in"])
def test_a_fresh_lambda_sees_what_changed_behind_other_functions(
    kind, monkeypatch, tmp_path
):
    np.save(tmp_path / "slope.npy", 1.0)
    monkeypatch.setattr(builtins, "BUILT_IN", 1.0, raising=False)
    path = str(tmp_path / "slope.npy")

    def answer():
        models = {
            "mapped": lambda p, t: p["a"] * _mapped(t),
            "file": lambda p, t: p["a"] * np.load(path) * t,
            "built in": lambda p, t: p["a"] * BUILT_IN * t,  # noqa: F821
        }
        return lmjax.curve_fit(models[kind], T, 4.0 * T, {"a": 1.0}).params["a"]

    np.testing.assert_allclose(answer(), 4.0, rtol=1e-5)
    monkeypatch.setattr(sys.modules[__name__], "SLOPE", 2.0)
    monkeypatch.setattr(builtins, "BUILT_IN", 2.0)
    np.save(path, 2.0)
    np.testing.assert_allclose(answer(), 2.0, rtol=1e-5)


LEVEL = jnp.asarray(1.0)


def _helper(t):
    return SLOPE * t


@pytest.mark.parametrize(("name", "new"), [("LEVEL", jnp.asarray(2.0)), ("SLOPE", 2.0)])
def test_arrays_of_jax_and_numbers_behind_a_helper_are_noticed(name, new, monkeypatch):
    model = lambda p, t: p["a"] * LEVEL * _helper(t)
    fit(model, {"a": 1.0})
    monkeypatch.setattr(sys.modules[__name__], name, new)
    with pytest.warns(UserWarning, match=name):
        fit(model, {"a": 1.0})


def test_an_object_in_a_partial_of_jax_is_named():
    model = jax.tree_util.Partial(lambda o, p, t: decay(p, t), object())
    with pytest.raises(TypeError, match=r"model: .*functools\.partial takes anything"):
        fit(model)
