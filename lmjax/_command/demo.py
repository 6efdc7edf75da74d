"""``lmjax demo``: fit real measured data and show the outcome."""

import importlib.resources
import importlib.util
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lmjax
from lmjax._files.problem import FileProblem

SOLVER = lmjax.LevenbergMarquardt(max_steps=100)
UNITS = {"amplitude": "grey", "x": "px", "y": "px", "width": "px", "background": "grey"}


def add_to(commands) -> None:
    """Add the command to those of the command line."""
    demo = commands.add_parser(
        "demo", help="fit 4,000 measured images of micron-sized spheres"
    )
    demo.add_argument("--fits", type=int, default=4000, help="how many of the images")
    demo.add_argument(
        "--figure",
        type=Path,
        default=Path("lmjax-demo.png"),
        help="where to save the figure (needs matplotlib; default: %(default)s)",
    )
    demo.set_defaults(run=run)


def spot(params, xy):
    """Two-dimensional Gaussian on a constant background."""
    x, y = xy
    r2 = (x - params["x"]) ** 2 + (y - params["y"]) ** 2
    bell = jnp.exp(-r2 / (2 * params["width"] ** 2))
    return params["amplitude"] * bell + params["background"]


def guess(image):
    """Start in the middle, as deep as the centre lies below the median of the rim."""
    rim = jnp.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    background = jnp.median(rim)
    middle = jnp.asarray((image.shape[0] - 1) / 2)
    return {
        "amplitude": image[image.shape[0] // 2, image.shape[1] // 2] - background,
        "x": middle,
        "y": middle,
        "width": middle / 2.5,
        "background": background,
    }


def fit_one(image):
    """Fit one image; batches come from ``jax.vmap``."""
    image = image.astype(jnp.result_type(float))
    pixels = jnp.arange(image.shape[0], dtype=image.dtype)
    xy = tuple(jnp.meshgrid(pixels, pixels))
    fit = lmjax.curve_fit(spot, xy, image, guess(image), solver=SOLVER)
    return fit.params, fit.stderr, fit.status, fit.num_steps


def run(options) -> int:
    """Fit the images, print a table, draw a figure."""
    source = importlib.resources.files("lmjax") / "_datasets" / "colloid_spots.npz"
    with source.open("rb") as file:
        images = np.load(file)["roi"]
    if not 1 <= options.fits <= len(images):
        raise FileProblem(
            f"--fits: expected 1 to {len(images)} images, got {options.fits}"
        )
    images = images[: options.fits]
    print(
        f"{len(images)} images of 1 micron latex spheres in water, "
        f"{images.shape[1]} x {images.shape[2]} pixels; 5 parameters each\n"
    )
    started = time.perf_counter()
    fit = jax.jit(jax.vmap(fit_one)).lower(images).compile()
    compiled = time.perf_counter()
    params, stderr, status, steps = jax.block_until_ready(fit(images))
    finished = time.perf_counter()
    _print_table(params, stderr, np.asarray(status), np.asarray(steps))
    seconds = finished - compiled
    print(
        f"\ncompiled in {compiled - started:.1f} s, fitted in {seconds:.2f} s: "
        f"{len(images) / seconds:,.0f} fits/s on {jax.devices()[0].device_kind}, "
        f"{params['x'].dtype}"
    )
    if importlib.util.find_spec("matplotlib") is None:
        print("no figure: matplotlib is not installed (pip install 'lmjax[plot]')")
    else:
        _save_figure(options.figure, images, params, stderr, status)
        print(f"figure saved to {options.figure}")
    return 0


def _print_table(params, stderr, status, steps):
    good = status > 0
    print(
        f"{'parameter':<12}{'unit':<6}{'median':>10}"
        f"{'5 %':>10}{'95 %':>10}{'error':>10}"
    )
    for name, unit in UNITS.items():
        values, errors = np.asarray(params[name])[good], np.asarray(stderr[name])[good]
        if values.size == 0:
            continue
        low, middle, high = np.percentile(values, [5, 50, 95])
        row = "".join(f"{v:>10.3f}" for v in (middle, low, high, np.nanmedian(errors)))
        print(f"{name:<12}{unit:<6}{row}")
    print("(over converged fits; error = median standard error of one fit)\n")
    for code in sorted(np.unique(status), reverse=True):
        count = int(np.sum(status == code))
        kind = lmjax.Status(int(code))
        print(f"{kind.name:<16}{count:>7}  {kind.advice}")
    print(f"steps: mean {steps.mean():.1f}, most {steps.max()}")


def _save_figure(path, images, params, stderr, status):
    from matplotlib.figure import Figure  # only here: importing lmjax must stay light

    good = np.flatnonzero(np.asarray(status) > 0)
    shown = good[np.linspace(0, len(good) - 1, min(6, len(good))).astype(int)]
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.subplot_mosaic([list("abcdef"), list("ABCDEF"), list("xxyyzz")])
    pixels = np.arange(images.shape[1], dtype=float)
    xy = tuple(np.meshgrid(pixels, pixels))
    for column, j in enumerate(shown):
        one = {name: float(values[j]) for name, values in params.items()}
        model = np.asarray(spot(one, xy))
        residual = images[j] - model
        top, bottom = grid["abcdef"[column]], grid["ABCDEF"[column]]
        top.imshow(images[j], cmap="gray")
        top.contour(*xy, model, levels=4, colors="tab:orange", linewidths=0.8)
        top.plot(one["x"], one["y"], "+", color="tab:orange")
        limit = np.abs(residual).max()
        bottom.imshow(residual, cmap="RdBu", vmin=-limit, vmax=limit)
    for name in "abcdefABCDEF":
        grid[name].set_xticks([])
        grid[name].set_yticks([])
    grid["a"].set_ylabel("image, fit")
    grid["A"].set_ylabel("residual")
    histograms = [
        ("x", stderr["x"], "standard error of x (px)"),
        ("y", params["width"], "width (px)"),
        ("z", params["amplitude"], "amplitude (grey levels)"),
    ]
    for key, values, label in histograms:
        values = np.asarray(values)[good]
        low, high = np.nanpercentile(values, [1, 99])
        grid[key].hist(values, bins=60, range=(low, high), color="tab:blue")
        grid[key].set_xlabel(label)
        grid[key].set_ylabel("fits")
    figure.savefig(path, dpi=130)
