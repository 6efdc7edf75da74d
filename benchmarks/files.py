"""`lmjax fit` as a whole process, next to `lmjax.fit_batch` on the same data in memory.

    python -m benchmarks.files [--rounds 5] [--save]

200 curves of a CSV; a NIfTI stack of 64 x 64 x 40 voxels with 12 echoes; a million
curves of an NPY file, with the largest memory of the process.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from textwrap import fill

import jax
import numpy as np
import pandas as pd

import lmjax
from benchmarks._report import save

PAGE = Path(__file__).parent.parent / "docs" / "files.md"
START, END = "<!-- figures -->", "<!-- end of figures -->"
T = np.linspace(0.0, 5.0, 40)
ECHOES = np.linspace(5.0, 120.0, 12)
RUN = """
import resource, sys
from lmjax._command.main import run
sys.argv[0] = "lmjax"
code = run()
print("memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def command(folder: Path, *arguments: str) -> tuple[float, float, int]:
    """Return seconds of the process, seconds of the fits, and memory in MB."""
    began = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-c", RUN, "fit", *arguments, "--overwrite"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    whole = time.perf_counter() - began
    fits = re.search(r"fits in ([\d.]+) s", found)
    memory = re.search(r"memory (\d+)", found)
    assert fits is not None
    assert memory is not None
    return whole, float(fits.group(1)), int(memory.group(1))


def write(folder: Path) -> np.ndarray:
    """Write the files and return the stack."""
    import nibabel

    rng = np.random.default_rng(0)
    noise = lambda *shape: 0.02 * rng.standard_normal(shape)
    rates = rng.uniform(0.3, 2.0, 200)
    curves = {f"c{k}": np.exp(-r * T) + noise(40) for k, r in enumerate(rates)}
    pd.DataFrame({"t": T} | curves).to_csv(folder / "curves.csv", index=False)
    t2 = rng.uniform(20.0, 150.0, (64, 64, 40, 1))
    stack = (1000.0 * (np.exp(-ECHOES / t2) + noise(64, 64, 40, 12))).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), folder / "stack.nii.gz")
    rates = rng.uniform(0.3, 2.0, (1_000_000, 1)).astype(np.float32)
    million = np.exp(-rates * T.astype(np.float32))
    million += 0.02 * rng.standard_normal(million.shape, np.float32)
    np.save(folder / "million.npy", million)
    np.save(folder / "tenth.npy", million[::10])
    np.savetxt(folder / "t.csv", T, header="t", comments="")
    return stack


def in_memory(stack: np.ndarray) -> float:
    """Return seconds of `lmjax.fit_batch`, compiled before, on the same stack."""
    kind, x = lmjax.models.T2Decay, ECHOES.astype(np.float32)

    def fit_one(y):
        fit = lmjax.curve_fit(kind.guess(x, y), x, y, nan_policy="omit")
        return fit.to_dict()

    rows = stack.reshape(-1, ECHOES.size)
    lmjax.fit_batch(fit_one, rows)
    began = time.perf_counter()
    lmjax.fit_batch(fit_one, rows)
    return time.perf_counter() - began


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    echoes = ",".join(map(str, ECHOES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = write(folder)
        few = ("curves.csv", "--model", "Exponential", "--out", "few.csv")
        image = ("stack.nii.gz", "--model", "T2Decay", "--x", echoes)
        image += ("--out", "maps.npz")
        model = ("--model", "Exponential", "--x", "t.csv", "--out", "out.parquet")
        first = command(folder, *few)[0]
        runs = {"csv": [], "stack": [], "stack_fits": [], "fit_batch": []}
        for _ in range(options.rounds):
            runs["csv"].append(command(folder, *few)[0])
            whole, fits, _ = command(folder, *image)
            runs["stack"].append(whole)
            runs["stack_fits"].append(fits)
            runs["fit_batch"].append(in_memory(stack))
        tenth, million = (
            command(folder, f"{data}.npy", *model) for data in ("tenth", "million")
        )
    result = {
        "first_csv_s": first,
        "median_s": {name: median(values) for name, values in runs.items()},
        "runs_s": runs,
        "million": {"whole_s": million[0], "fits_s": million[1], "mb": million[2]},
        "tenth": {"whole_s": tenth[0], "fits_s": tenth[1], "mb": tenth[2]},
    }
    for name, value in result.items():
        print(name, value)
    print(jax.devices())
    if options.save:
        save("files", result)
        write_page(result)


def write_page(result: dict) -> None:
    """Put the figures into the page about files."""
    few, million, tenth = (result[k] for k in ("median_s", "million", "tenth"))
    text = f"""On two cores, from the start of the process to its end: 200 curves of a
    CSV take {result["first_csv_s"]:.1f} s the first time, and {few["csv"]:.1f} s with
    the compiled programs of an earlier run. A million curves of 40 points take
    {million["whole_s"]:.1f} s and {million["mb"]} MB of memory, a tenth of them
    {tenth["mb"]} MB. Most of a short run is importing JAX and compiling
    (`python -m benchmarks.files`)."""
    lines = [START, fill(" ".join(text.split()), 96), END]
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(before + "\n".join(lines) + rest.partition(END)[2])


if __name__ == "__main__":
    main()
