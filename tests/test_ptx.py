"""The machine program for a GPU: what can be known of it without one."""

import ctypes
import functools
import os
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_table import SPECS

import lmjax
from lmjax import LevenbergMarquardt
from lmjax._engines.fused import engine
from lmjax._engines.fused.threads import NAME, TARGET, Threads
from lmjax._jax import machine

pytest.importorskip("llvmlite", reason="the fused engine is made by llvmlite")

FUSED = LevenbergMarquardt(engine="fused")
# NVIDIA's assembler, of the wheel nvidia-cuda-nvcc.
PTXAS = os.environ.get("LMJAX_PTXAS") or shutil.which("ptxas")
MODELS = {str(spec): spec for spec in SPECS}
KERNELS = list(MODELS)
# Compared to the last bit on every run.
OFTEN = ("Gaussian2D", "DampedSine")
# Machine code that is given back takes LLVM's description of this processor along.
ASSEMBLED = []
T = np.linspace(0.0, 4.0, 30)
EXACT = np.tile(2.0 * np.exp(-T), (300, 1))


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t) + p["c"]


def fit_decay(y):
    return lmjax.curve_fit(decay, T, y, {"a": 1.0, "k": 1.5, "c": 0.1}, solver=FUSED)


def summary(fit):
    return fit.params, fit.cost, fit.status, fit.num_steps


def batch_of(name, dtype, count=40, solver=FUSED):
    """Return a function of a batch, and data with 1 % of noise."""
    spec = MODELS[name]
    rng = np.random.default_rng(5)
    p = spec.draw(rng, count)
    exact = np.stack([np.asarray(spec.formula(spec.x, *row)) for row in p])
    y = exact * (1.0 + 0.01 * rng.normal(size=exact.shape))
    start = spec.build(p * (1.0 + 0.02 * rng.normal(size=p.shape)))
    x, y, start = jax.tree.map(lambda x: np.asarray(x, dtype), (spec.x, y, start))
    fit = lambda y, start: summary(lmjax.curve_fit(start, x, y, solver=solver))
    return jax.vmap(fit), (y, start)


def program_of(batch, data):
    """Return the program for a GPU that a batch of fits makes."""
    with jax.numpy_dtype_promotion("standard"):
        jaxpr = jax.make_jaxpr(batch)(*data).jaxpr
    calls = [eqn for eqn in equations(jaxpr) if eqn.primitive is engine.program_p]
    programs = [(call.params["program"], call.params["size"]) for call in calls]
    plans = [(made.kernel.plan, made.inputs, size) for made, size in programs]
    (own,) = [given for given in plans if given[0].name == "fits"]
    return Threads(*own)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                yield from equations(inner.jaxpr)


@functools.cache
def kernel_of(name, dtype):
    """Return the text of a kernel, and the number of its arguments."""
    program = program_of(*batch_of(name, dtype))
    arguments = len(program.leaves) + len(program.results)
    return machine.for_gpu(program.kernel()), arguments


def lines(pattern, text):
    return re.findall(pattern, text, re.MULTILINE)


@pytest.mark.one_of(4)
@pytest.mark.parametrize("name", KERNELS)
def test_models_become_kernels_that_call_nothing(name):
    text, arguments = kernel_of(name, "float32")
    assert lines(r"^\.visible \.entry (\w+)", text) == [NAME]
    assert len(lines(r"^\s+\.param", text)) == arguments
    assert not lines(r"^\s+call|^\.extern|^\.func", text)
    # what drivers since 2020 know
    assert lines(r"^\.version (.*)$", text) == ["7.0"]
    # a generic address is a slow one: LLVM must see what is local and what is not
    assert not lines(r"^\s+(?:ld|st)\.(?:b|u|s|f|v)\d.*$", text)
    # settings of the solver may be float64, and are rounded at once
    assert not lines(r"^\s+(?!cvt\.rn\.f32)\w+\.\S*f64.*$", text)


def test_numbers_of_float64_are_stored_whole():
    """Stored by halves, the lower one got lost on an H100."""
    text, _ = kernel_of("Gaussian", "float64")
    assert lines(r"^\s+st\.global\.b64", text)
    assert not lines(r"^\s+st\.global\.b32\s+\[.*\], %rd\d+", text)


@pytest.mark.one_of(4)
@pytest.mark.skipif(not PTXAS, reason="needs ptxas on the path or in LMJAX_PTXAS")
@pytest.mark.parametrize("name", KERNELS)
def test_float32_kernels_fit_into_the_registers(name, tmp_path, record_property):
    text, _ = kernel_of(name, "float32")
    (tmp_path / "fits.ptx").write_text(text)
    command = [PTXAS, "-v", "-arch=sm_90", "-o", "fits.cubin", "fits.ptx"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (registers,) = map(int, re.findall(r"Used (\d+) registers", run.stderr))
    record_property("registers", registers)
    assert registers <= 255
    assert set(re.findall(r"(\d+) bytes spill", run.stderr)) == {"0"}


def on_cuda(batch, *data):
    """Return the program that a CPU lowers for CUDA."""
    with jax.numpy_dtype_promotion("standard"):
        traced = jax.jit(batch).trace(*data)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_what_a_gpu_has_not_is_said_or_left_to_xla():
    growth = lambda p, t: p["a"] * jnp.exp(-p["k"] * jax.scipy.special.gammaln(1 + t))
    start = {"a": 1.0, "k": 1.5}
    fit = lambda y, **how: lmjax.curve_fit(growth, T, y, start, **how).params
    with pytest.raises(ValueError, match="'fused' cannot run this fit: a GPU has no"):
        on_cuda(jax.vmap(lambda y: fit(y, solver=FUSED)), EXACT)
    text = on_cuda(jax.vmap(fit), EXACT)
    assert TARGET not in text
    assert "stablehlo.while" in text


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elementary_functions_become_kernels(dtype):
    def every(p, t):
        x = p[0] * t
        near = jnp.arcsin(x / 9) + jnp.arccos(x / 9) + jnp.arctanh(x / 9)
        ends = jnp.arcsinh(x) + jnp.arccosh(1 + x) + jnp.tan(x / 4) + jnp.cbrt(x)
        grown = jnp.sinh(x) + jnp.cosh(x) + jnp.exp2(x) + jax.scipy.special.erf(x)
        turns = jnp.arctan(x) + jnp.arctan2(p[1], x) + x ** p[1]
        return near + ends + grown + turns + jax.scipy.special.erfc(x)

    t = np.linspace(0.1, 2.0, 20).astype(dtype)
    start = np.array([1.0, 1.5], dtype)
    fit = lambda y: lmjax.curve_fit(every, t, y, start, solver=FUSED).params
    assert TARGET in on_cuda(jax.vmap(fit), np.ones((300, 20), dtype))


def test_memory_of_a_thread_is_bounded():
    x = np.linspace(0.0, 1.0, 900)

    def slow(p, x):
        turn = lambda total, dx: (total - p[1] * dx * total, total)
        return jax.lax.scan(turn, p[0], jnp.diff(x, prepend=0.0))[1] + p[2]

    start = np.array([1.0, 1.0, 0.0])
    fit = lambda y: lmjax.curve_fit(slow, x, y, start, solver=FUSED)
    with pytest.raises(ValueError, match="works in .* bytes of memory"):
        on_cuda(jax.vmap(lambda y: fit(y).cost), np.ones((5, 900)))


def test_few_fits_of_many_points_are_left_to_xla():
    x = np.linspace(0.0, 4.0, 2000)
    start = {"a": 1.0, "k": 1.5, "c": 0.1}
    fit = lambda y, **how: lmjax.curve_fit(decay, x, y, start, **how).params
    few = jax.ShapeDtypeStruct((100, len(x)), float)
    many = jax.ShapeDtypeStruct((50_000, len(x)), float)
    assert TARGET not in on_cuda(jax.vmap(fit), few)
    assert TARGET in on_cuda(jax.vmap(fit), many)
    assert TARGET in on_cuda(jax.vmap(lambda y: fit(y, solver=FUSED)), few)


def lowered(batch, platform):
    return jax.jit(batch).trace(EXACT).lower(lowering_platforms=(platform,)).as_text()


def test_kernel_is_called_on_a_gpu_and_nowhere_else():
    batch = jax.vmap(lambda y: summary(fit_decay(y)))
    text = lowered(batch, "cuda")
    assert text.count(f"@{TARGET}(") == text.count("stablehlo.custom_call") == 1
    assert "stablehlo.while" not in text
    assert "grid_x = 3 : i32" in text
    assert TARGET not in lowered(batch, "cpu")
    assert TARGET not in lowered(batch, "rocm")


def test_statistics_and_gradients_are_kernels_too():
    start = {"a": 1.0, "k": 1.5, "c": 0.1}
    fit = lambda y: lmjax.curve_fit(decay, T, y, start)
    errors = lowered(jax.vmap(lambda y: fit(y).stderr), "cuda")
    slope = lowered(jax.vmap(jax.grad(lambda y: fit(y).params["k"])), "cuda")
    for text in (errors, slope):
        assert text.count(f"@{TARGET}(") == text.count("stablehlo.custom_call") == 2
        assert "stablehlo.while" not in text


@pytest.mark.parametrize("engine", ["loop", "xla"])
def test_other_engines_call_no_kernel(engine):
    solver = LevenbergMarquardt(engine=engine)
    start = {"a": 1.0, "k": 1.5, "c": 0.1}
    fit = lambda y: lmjax.curve_fit(decay, T, y, start, solver=solver).params
    assert TARGET not in lowered(jax.vmap(fit), "cuda")


# on a GPU, where there is one


def gpu():
    try:
        return jax.devices("cuda")[0]
    except RuntimeError:
        return None


@pytest.mark.skipif(gpu() is None, reason="needs a GPU of NVIDIA's")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", KERNELS)
def test_gpu_finds_what_a_cpu_finds(name, dtype, record_property):
    batch, data = batch_of(name, dtype, 4000)
    run = lambda device: jax.tree.map(
        np.asarray, jax.jit(batch)(*jax.device_put(data, device))
    )
    with jax.numpy_dtype_promotion("standard"):
        expected, got = run(jax.devices("cpu")[0]), run(gpu())
    # divisions and roots are rounded alike, sums of products need not be; a fit at its
    # minimum may be told so by one test or by another
    same = (got[2] > 0) == (expected[2] > 0)
    eps = np.finfo(dtype).eps
    excess = np.abs(got[1] - expected[1])[same] / (expected[1][same] + eps)
    record_property("same success", float(same.mean()))
    record_property("same steps", float((got[3] == expected[3]).mean()))
    record_property("cost, 99.9 %", float(np.quantile(excess, 0.999)))
    assert same.mean() > 0.999
    assert np.quantile(excess, 0.999) < 1e3 * eps


@pytest.mark.skipif(gpu() is None, reason="needs a GPU of NVIDIA's")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gpu_finds_the_errors_and_slopes_of_a_cpu(dtype, rng):
    start = np.array([1.0, 1.5, 0.1], dtype)
    model = lambda p, t: p[0] * jnp.exp(-p[1] * t) + p[2]
    y = (EXACT + 0.02 * rng.normal(size=EXACT.shape)).astype(dtype)
    y[0] = 1.0  # a constant: two directions are open
    fit = lambda y: lmjax.curve_fit(model, T.astype(dtype), y, start)
    rate = lambda y: fit(y).params[1]

    def one(y):
        found = fit(y)
        return found.covariance, found.rank, jax.grad(rate)(y)

    run = lambda device: jax.tree.map(
        np.asarray, jax.jit(jax.vmap(one))(jax.device_put(y, device))
    )
    with jax.numpy_dtype_promotion("standard"):
        expected, got = run(jax.devices("cpu")[0]), run(gpu())
    np.testing.assert_array_equal(got[1], expected[1])
    for a, b in ((got[0], expected[0]), (got[2], expected[2])):
        scale = np.abs(b[1:]).max()
        within = 1e4 * np.finfo(dtype).eps
        np.testing.assert_allclose(a[1:] / scale, b[1:] / scale, rtol=0, atol=within)


@pytest.mark.skipif(gpu() is None, reason="needs a GPU of NVIDIA's")
def test_gpu_gives_a_lane_the_same_bits_in_any_company():
    batch, data = batch_of("Gaussian", "float32", 4000)
    part = jax.tree.map(lambda x: x[77:1100] if np.ndim(x) else x, data)
    data, part = jax.device_put((data, part), gpu())
    with jax.numpy_dtype_promotion("standard"):
        whole = jax.tree.map(lambda x: x[77:1100], jax.jit(batch)(*data))
        jax.tree.map(np.testing.assert_array_equal, jax.jit(batch)(*part), whole)


# the same program, run by a CPU


def on_this_machine(program, arrays):
    """Return what a program for GPUs leaves behind, one fit after the other.

    Args:
        program: The program.
        arrays: Its arguments, all fits side by side.
    """
    loop = f"""
define void @all(ptr %inputs, ptr %outputs) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  call void @fit(ptr %inputs, ptr %outputs, i64 %i)
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, {program.fits}
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""
    ASSEMBLED.append(machine.assembled(program.text(program.results) + loop))
    shapes = [*jax.tree.leaves(program.plan.results), jax.ShapeDtypeStruct((), "i4")]
    results = [np.zeros((program.fits, *x.shape), x.dtype) for x in shapes]
    arrays = [np.ascontiguousarray(x) for x in arrays]
    pointers = lambda arrays: (ctypes.c_void_p * len(arrays))(
        *(x.ctypes.data for x in arrays)
    )
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    address = ASSEMBLED[-1].get_function_address("all")
    run(address)(pointers(arrays), pointers(results))
    return results


def by_lanes_and_by_threads(batch, data):
    """Return what a CPU makes of a batch, by its own program and by that for a GPU."""
    ran = []

    def on(self, platform, size, wanted):
        program = Threads(self.kernel.plan, self.inputs, size)
        ran.append(program)

        def ffi_call(target, shapes):
            run = lambda *arrays: on_this_machine(program, arrays)
            return lambda *arrays, **_: jax.pure_callback(run, shapes, *arrays)

        call = program.assembled()
        every = lambda *arrays: with_ffi_call(ffi_call, call, arrays)
        return engine.some_of(every, wanted)

    data = jax.device_put(data, jax.devices("cpu")[0])
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        expected = jax.tree.map(np.asarray, jax.jit(batch)(*data))
        patch.setattr(engine.Program, "on", on)
        patch.setattr(machine, "for_gpu", lambda text: "")
        jax.clear_caches()  # or what was lowered before runs again
        got = jax.tree.map(np.asarray, jax.jit(batch)(*data))
    jax.clear_caches()
    assert ran
    return expected, got


def with_ffi_call(ffi_call, call, arrays):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.ffi, "ffi_call", ffi_call)
        return call(*arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow)
        for name in ("Gaussian", "Gaussian2D", "PowerLaw", "DampedSine", "Logistic5")
    ],
)
def test_thread_finds_what_a_lane_finds(name, dtype):
    expected, got = by_lanes_and_by_threads(*batch_of(name, dtype))
    assert (expected[2] > 0).mean() > 0.8
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_everything_may_differ_per_thread(rng):
    count = 24
    p = rng.uniform(0.5, 2.0, (count, 3))
    x = T * rng.uniform(0.8, 1.2, (count, 1))
    y = p[:, :1] * np.exp(-p[:, 1:2] * x) + p[:, 2:] + 0.01 * rng.normal(size=x.shape)
    model = lambda p, x: p[0] * jnp.exp(-p[1] * x) + p[2]

    def fit(x, y, start, sigma, mask, low, fixed, scale):
        given = {"sigma": sigma, "mask": mask, "fixed": fixed, "bounds": (low, None)}
        return summary(
            lmjax.curve_fit(
                model,
                x,
                y,
                start,
                loss="huber",
                loss_scale=scale,
                solver=FUSED,
                **given,
            )
        )

    data = (
        *(x, y, p * rng.uniform(0.8, 1.2, p.shape)),
        *(rng.uniform(0.5, 2.0, y.shape), rng.uniform(size=y.shape) > 0.1),
        *(np.full(p.shape, 0.1), rng.uniform(size=p.shape) > 0.8),
        rng.uniform(1.0, 2.0, count),
    )
    expected, got = by_lanes_and_by_threads(jax.vmap(fit), data)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
