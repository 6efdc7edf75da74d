"""Where and with what a benchmark ran, and how its results are kept."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from textwrap import fill

import jax

RESULTS = Path(__file__).parent / "results"


def environment() -> dict:
    """Return hardware and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    packages = ("lmjax", "jax", "jaxlib", "equinox", "scipy", "optimistix", "jaxopt")
    packages += ("xarray", "dask", "zarr")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def _version(name):
    try:
        return version(name)
    except ImportError:
        return None


def save(name: str, results: dict) -> Path:
    """Write results with their environment to ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"environment": environment(), **results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def load(name: str) -> dict:
    """Return the results in ``results/<name>.json``."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def prose(text: str) -> str:
    """Return a paragraph, wrapped."""
    return fill(" ".join(text.split()), 96, break_on_hyphens=False)
