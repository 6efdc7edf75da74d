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
from lmjax._fused import engine, machine
from lmjax._fused.threads import NAME, TARGET, Threads

pytest.importorskip("llvmlite", reason="the fused engine is made by llvmlite")

PTX = LevenbergMarquardt(engine="ptx")
# NVIDIA's assembler, of the wheel nvidia-cuda-nvcc.
PTXAS = os.environ.get("LMJAX_PTXAS") or shutil.which("ptxas")
# Sines and cosines of large angles are asked of the C library.
WITHOUT = {"RotatedGaussian2D", "VariableFlipAngle", "DampedSine"}
MODELS = {str(spec): spec for spec in SPECS}
KERNELS = [name for name in MODELS if name not in WITHOUT]
# Machine code that is given back takes LLVM's description of this processor along.
ASSEMBLED = []
T = np.linspace(0.0, 4.0, 30)
EXACT = np.tile(2.0 * np.exp(-T), (300, 1))


def decay(p, t):
    return p["a"] * jnp.exp(-p["k"] * t) + p["c"]


def fit_decay(y):
    return lmjax.curve_fit(decay, T, y, {"a": 1.0, "k": 1.5, "c": 0.1}, solver=PTX)


def summary(fit):
    return fit.params, fit.cost, fit.status, fit.num_steps


def batch_of(name, dtype, count=40):
    """Return a function of a batch, and data with 1 % of noise."""
    spec = MODELS[name]
    rng = np.random.default_rng(5)
    p = spec.draw(rng, count)
    exact = np.stack([np.asarray(spec.formula(spec.x, *row)) for row in p])
    y = exact * (1.0 + 0.01 * rng.normal(size=exact.shape))
    start = spec.build(p * (1.0 + 0.02 * rng.normal(size=p.shape)))
    x, y, start = jax.tree.map(lambda x: np.asarray(x, dtype), (spec.x, y, start))
    fit = lambda y, start: summary(lmjax.curve_fit(start, x, y, solver=PTX))
    return jax.vmap(fit), (y, start)


def program_of(batch, data):
    """Return the program for a GPU that a batch of fits makes."""
    made = []
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(engine, "Threads", noting(made))
        patch.setattr(machine, "for_gpu", lambda text: "")
        jax.clear_caches()  # a fit that was traced before makes no new one
        jax.jit(batch).trace(*data)
    (program,) = made
    return program


def noting(made):
    class Noted(Threads):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    return Noted


@functools.cache
def kernel_of(name, dtype):
    """Return the text of a kernel, and the number of its arguments."""
    program = program_of(*batch_of(name, dtype))
    arguments = len(program.leaves) + len(program.results)
    return machine.for_gpu(program.kernel()), arguments


def lines(pattern, text):
    return re.findall(pattern, text, re.MULTILINE)


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


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_what_a_gpu_has_not_is_said(name):
    batch, data = batch_of(name, "float32")
    with (
        pytest.raises(ValueError, match="engine='ptx' cannot run this fit: a GPU has"),
        jax.numpy_dtype_promotion("standard"),
    ):
        jax.jit(batch).trace(*data)


def test_memory_of_a_thread_is_bounded():
    x = np.linspace(0.0, 1.0, 900)

    def slow(p, x):
        turn = lambda total, dx: (total - p[1] * dx * total, total)
        return jax.lax.scan(turn, p[0], jnp.diff(x, prepend=0.0))[1] + p[2]

    fit = lambda y: lmjax.curve_fit(slow, x, y, np.array([1.0, 1.0, 0.0]), solver=PTX)
    with pytest.raises(ValueError, match="works in .* bytes of memory"):
        jax.jit(jax.vmap(lambda y: fit(y).cost)).trace(np.ones((5, 900)))


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


@pytest.mark.parametrize("engine", [None, "fused", "xla"])
def test_kernel_is_called_only_if_it_is_asked_for(engine):
    solver = LevenbergMarquardt(engine=engine)
    start = {"a": 1.0, "k": 1.5, "c": 0.1}
    fit = lambda y: lmjax.curve_fit(decay, T, y, start, solver=solver).params
    assert TARGET not in lowered(jax.vmap(fit), "cuda")


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
    ASSEMBLED.append(machine.assembled(program.text() + loop))
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
    made = []

    def ffi_call(target, shapes):
        if target == TARGET:
            run = lambda *arrays: on_this_machine(made[-1], arrays)
            return lambda *arrays, **_: jax.pure_callback(run, shapes, *arrays)
        return made[-1].assembled()  # in the place of the CPU's

    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        expected = jax.tree.map(np.asarray, jax.jit(batch)(*data))
        patch.setattr(engine, "Threads", noting(made))
        patch.setattr(machine, "for_gpu", lambda text: "")
        patch.setattr(jax.ffi, "ffi_call", ffi_call)
        jax.clear_caches()
        got = jax.tree.map(np.asarray, jax.jit(batch)(*data))
    jax.clear_caches()
    assert made
    return expected, got


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", ["Gaussian", "Gaussian2D", "StretchedExponential", "PowerLaw", "Logistic5"]
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
                model, x, y, start, loss="huber", loss_scale=scale, solver=PTX, **given
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
