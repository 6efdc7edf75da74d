"""Compile batches of fits for an H100 on a machine without one; print facts as JSON.

    JAX_PLATFORMS=cpu python tests/for_h100.py

It needs the wheels of jax's plugin for CUDA, of the version of jax: ``pip install
--no-deps jax-cuda13-pjrt jax-cuda13-plugin nvidia-cuda-nvcc nvidia-nvvm`` (1.4 GB).
"""

import json
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import lmjax

FITS, POINTS = 100_000, 50
T = np.linspace(0.0, 4.0, POINTS, dtype=np.float32)
START = np.float32([1.0, 1.0, 0.5])
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}


def fit(y, engine):
    """Fit a decay."""
    model = lambda p, t: p[0] * jnp.exp(-p[1] * t) + p[2]
    solver = lmjax.LevenbergMarquardt(engine=engine)
    return lmjax.curve_fit(model, T, y, START, solver=solver)


WANTED = {
    "params": lambda y, engine: fit(y, engine).params,
    "stderr": lambda y, engine: (fit(y, engine).stderr, fit(y, engine).status),
    "gradient": jax.grad(lambda y, engine: fit(y, engine).params[1]),
}


def h100():
    """Return a device that can be compiled for, and nothing else."""
    spec = (Path(__file__).parent / "data" / "h100.txtpb").read_text()
    described = topologies.get_topology_desc(
        platform="cuda", target_config=spec, topology="1x1x1"
    )
    return described.devices[0]


def size(shapes: str) -> int:
    """Return the bytes of all arrays in the text of a type."""
    return sum(
        SIZES[kind] * int(np.prod([int(n) for n in dims.split(",") if n], initial=1))
        for kind, dims in re.findall(r"\b(\w+)\[([\d,]*)\]", shapes)
        if kind in SIZES
    )


def bytes_per_turn(text: str) -> int:
    """Return what the kernels of the busiest loop read and write in one turn."""
    found = [0]
    for name in set(re.findall(r"body=%([\w.-]+)", text)):
        body = text.split(f"\n%{name} (")[1].split("\n}")[0]
        lines = re.findall(r"%([\w.-]+) = (.*?) ([\w-]+)\((.*)", body)
        sizes = {name: size(shapes) for name, shapes, _, _ in lines}
        total = 0
        for name, _, operation, rest in lines:
            if operation == "fusion":
                given = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
                total += sizes[name] + sum(sizes.get(x, 0) for x in given)
        found.append(total)
    return max(found)


def facts(want, engine) -> dict:
    """Return what a batch of fits becomes."""
    sharding = SingleDeviceSharding(h100())
    batch = jax.jit(
        jax.vmap(lambda y: want(y, engine)),
        in_shardings=sharding,
        out_shardings=sharding,
    )
    data = jax.ShapeDtypeStruct((FITS, POINTS), np.float32)
    lowered = batch.trace(data).lower(lowering_platforms=("cuda",))
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    text = compiled.as_text()
    return {
        "seconds": seconds,
        "kernels": len(re.findall(r" (?:fusion|custom-call)\(", text)),
        "loops": len(re.findall(r" while\(", text)),
        "temporary_bytes_per_fit": compiled.memory_analysis().temp_size_in_bytes / FITS,
        "bytes_per_fit_and_turn": bytes_per_turn(text) / FITS,
    }


if __name__ == "__main__":
    found = {
        f"{name}, {engine or 'fused'}": facts(want, engine)
        for engine in (None, "xla")
        for name, want in WANTED.items()
    }
    sys.stdout.write(json.dumps(found, indent=1))
