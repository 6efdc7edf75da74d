"""What a batch of fits asks of a GPU, read from programs that a CPU lowers for CUDA.

By default most are one call of a kernel of ours; XLA, which runs the others, is told
what to leave out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax import LevenbergMarquardt
from lmjax._engines.fused import engine
from lmjax._engines.fused.threads import TARGET
from lmjax._jax.machine import Unsupported
from lmjax.likelihoods import Binomial, Poisson

COUNT, POINTS = 300, 30
T = np.linspace(0.0, 4.0, POINTS)
PIXELS = tuple(x.ravel() for x in np.meshgrid(np.arange(5.0), np.arange(5.0)))
# Loops within loops: rounds over blocks of fits, blocks of a round, turns of one. In
# the rare branch of fits with many parameters: blocks, sweeps, rotations of an SVD.
# `loop` and `global_fit` have one loop for all fits.
DEEPEST = {"loop": 2, "global_fit": 1}
# These have one loop for all.
WITHOUT_KERNEL = {"loop", "global_fit"}
# Numbers written into a program, as arguments of `jnp.where`: jax makes float64 of them
# where the x64 flag is on, and XLA rounds each before the program runs.
MOST_LITERALS = 80
# Operations by which a program talks to its host.
TALK = {f"stablehlo.{name}" for name in ("infeed", "outfeed", "send", "recv")}


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t) + p["c"]


def spot(p, xy):
    r2 = (xy[0] - p[1]) ** 2 + (xy[1] - p[2]) ** 2
    return p[0] * jnp.exp(-r2 / (2 * p[3] ** 2)) + p[4]


def chance(p, t):
    return jax.nn.sigmoid(p["a"] + p["k"] * t + p["c"] * t**2)


def waves(p, t):
    return sum((p[k] * jnp.cos(k * t) for k in range(1, 10)), p[0])


def of_decay(model=decay, want=lambda fit: fit.params, **options):
    """Return a kind of fit: from a dtype to a function of y, and the shape of y."""

    def make(dtype):
        cast = lambda tree: jax.tree.map(lambda x: np.asarray(x, dtype), tree)
        start = cast({"a": 1.0, "k": 1.0, "c": 0.0})
        given = {
            name: cast(value) if name in ("bounds", "sigma") else value
            for name, value in options.items()
        }
        fit = lambda y: lmjax.curve_fit(model, cast(T), y, start, **given)
        return lambda y: want(fit(y)), (POINTS,)

    return make


def of_array(model, x, n, **options):
    def make(dtype):
        points = jax.tree.map(lambda x: x.astype(dtype), x)
        start = np.linspace(1.0, 2.0, n).astype(dtype)
        size = jax.tree.leaves(x)[0].size
        return lambda y: lmjax.curve_fit(model, points, y, start, **options), (size,)

    return make


def with_x_per_fit(dtype):
    start = {"a": dtype(1.0), "k": dtype(1.0), "c": dtype(0.0)}
    fit = lambda both: lmjax.curve_fit(decay, both[0], both[1], start).params
    return fit, (2, POINTS)


def gradient(dtype):
    fit, shape = of_decay(want=lambda fit: fit.params["k"])(dtype)
    return jax.grad(fit), shape


def several_curves(dtype):
    start = {"a": dtype(1.0), "k": dtype(1.0), "c": dtype(0.0)}
    fit = lambda y: lmjax.global_fit(
        decay, T.astype(dtype), y, start, shared={"k": True}
    )
    return lambda y: fit(y).params, (3, POINTS)


KINDS = {
    "decay": of_decay(),
    "5x5 spot": of_array(spot, PIXELS, 5),
    "10 parameters": of_array(waves, T, 10),
    "bounds": of_decay(bounds=({"k": 0.1}, {"k": 9.0})),
    "fixed": of_decay(fixed={"c": True}),
    "mask": of_decay(mask=np.arange(POINTS) < 20),
    "sigma": of_decay(sigma=0.1 + T),
    "Poisson": of_decay(likelihood=Poisson()),
    "Binomial": of_decay(chance, likelihood=Binomial(20)),
    "linear": of_decay(linear={"a": True, "c": True}),
    "x per fit": with_x_per_fit,
    "stderr": of_decay(want=lambda fit: fit.stderr),
    "gradient": gradient,
    "global_fit": several_curves,
    "loop": of_decay(solver=LevenbergMarquardt(engine="loop")),
    **{
        name: of_decay(loss=name, loss_scale=np.float32(1.0))
        for name in ("huber", "soft_l1", "cauchy", "arctan", "tukey", "welsch")
    },
}


class Facts(NamedTuple):
    """What a program holds.

    Attributes:
        operations: Names of its operations.
        calls: Names of what it calls outside XLA.
        types: Types of the results of its operations.
        literals: How many numbers of float64 are written into it.
        loops: How many loops are within one another.
    """

    operations: set
    calls: set
    types: set
    literals: int
    loops: int


def facts(kind, dtype):
    """Return what a batch of fits becomes for CUDA."""
    fit, shape = KINDS[kind](np.dtype(dtype).type)
    y = jax.ShapeDtypeStruct((COUNT, *shape), dtype)
    with jax.numpy_dtype_promotion("standard"):
        program = jax.jit(jax.vmap(fit)).trace(y).lower(lowering_platforms=("cuda",))
    module = program.compiler_ir("stablehlo")
    functions = {op.name.value: op.operation for op in module.body.operations}
    every = [op for function in functions.values() for op in inside(function)]
    made = [(op.name, str(result.type)) for op in every for result in op.results]
    calls = [op for op in every if op.name == "stablehlo.custom_call"]
    return Facts(
        {op.name for op in every},
        {op.attributes["call_target_name"].value for op in calls},
        {kind for _, kind in made},
        made.count(("stablehlo.constant", "tensor<f64>")),
        depth(functions["main"], functions),
    )


def inside(op):
    """Yield the operations within one, at any depth."""
    for inner in below(op):
        yield inner
        yield from inside(inner)


def below(op):
    return [x.operation for region in op.regions for block in region for x in block]


def depth(op, functions):
    """Return how many loops are within one another, calls included."""
    if op.name == "func.call":
        return depth(functions[op.attributes["callee"].value], functions)
    deepest = max((depth(inner, functions) for inner in below(op)), default=0)
    return deepest + (op.name == "stablehlo.while")


def refuse(*args):
    raise Unsupported("the test forbids it")


@pytest.fixture
def no_kernels(monkeypatch):
    """Let XLA run all fits."""
    monkeypatch.setattr(engine, "Threads", refuse)
    jax.clear_caches()  # what was lowered before has some


# To XLA these are like "huber".
ALIKE = {"soft_l1", "cauchy", "arctan", "tukey", "welsch"}


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow if kind in ALIKE else [])
        for kind in KINDS
    ],
)
def test_float32_fits_are_plain_operations_on_float32(kind):
    found = facts(kind, "float32")
    assert not found.calls  # no library, no host, none of the programs for a CPU
    assert not found.operations & TALK
    assert found.loops == DEEPEST.get(kind, 3)
    assert not [kind for kind in found.types if "xf64" in kind]
    assert found.literals <= MOST_LITERALS


@pytest.mark.one_of(2)
@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("kind", ["decay", "stderr", "10 parameters", "global_fit"])
def test_nothing_is_float64_where_jax_has_none(kind):
    with jax.enable_x64(False):
        found = facts(kind, "float32")
    assert not [kind for kind in found.types if "f64" in kind]


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("kind", ["decay", "linear", "gradient"])
def test_float64_fits_are_plain_operations_on_float64(kind):
    found = facts(kind, "float64")
    assert not found.calls
    assert not found.operations & TALK
    assert found.loops == DEEPEST.get(kind, 3)
    assert not [kind for kind in found.types if "f32" in kind]


@pytest.mark.one_of(2)
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - WITHOUT_KERNEL))
def test_by_default_one_kernel_runs_the_fits(kind):
    found = facts(kind, "float32")
    assert found.calls == {TARGET}
    assert not found.operations & TALK
    # the covariance of all parameters, linear ones too, has rare loops of its own
    assert found.loops == (3 if kind == "linear" else 0)
    assert not [kind for kind in found.types if "xf64" in kind]


@pytest.mark.parametrize("kind", sorted(WITHOUT_KERNEL))
def test_other_fits_are_left_to_xla(kind):
    assert not facts(kind, "float32").calls
