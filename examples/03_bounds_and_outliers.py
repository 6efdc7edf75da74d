"""What do a robust loss, bounds and a fixed parameter change when data hold outliers?

A peak on a background, 60 points, of which 8 were hit by something else. The same
curve is fitted five times.

Expect: plain least squares is pulled far off: height and background miss the truth by
many of the true noise's sigmas. A robust loss comes back to the truth. A bound that
excludes the pulled background alone repairs little, and that parameter, held at its
bound, has no error bar. Fixing the background at its known value tightens the others.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import lmjax

jax.config.update("jax_enable_x64", True)

TRUTH = {"height": 5.0, "centre": 4.0, "width": 0.8, "background": 1.0}
START = {"height": 3.0, "centre": 5.0, "width": 1.0, "background": 1.0}
NOISE = 0.1
OUTLIERS = [3, 9, 14, 27, 36, 44, 50, 57]
SEED = 1


def peak(params, x):
    """Return a Gaussian on a constant background."""
    z = (x - params["centre"]) / params["width"]
    return params["height"] * jnp.exp(-(z**2) / 2) + params["background"]


def measure():
    """Return x and y with outliers, all of them too high."""
    rng = np.random.default_rng(SEED)
    x = np.linspace(0.0, 10.0, 60)
    y = np.asarray(peak(TRUTH, x)) + rng.normal(0.0, NOISE, x.size)
    y[OUTLIERS] += rng.uniform(2.0, 6.0, len(OUTLIERS))
    return x, y


def main():
    """Fit five times and print each against the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    options = parser.parse_args()
    x, y = measure()
    robust = {"loss": "cauchy"}  # with sigma given, its scale of 1 means one sigma
    bounds = ({"width": 0.1}, {"background": 1.2})
    cases = {
        "plain": {},
        "bounds": {"bounds": bounds},
        "robust": robust,
        "robust, bounds": {**robust, "bounds": bounds},
        "robust, fixed": {**robust, "fixed": {"background": True}},
    }
    print(f"{'':<16}" + "".join(f"{name:>18}" for name in TRUTH))
    print(f"{'truth':<16}" + "".join(f"{value:>18.3f}" for value in TRUTH.values()))
    fits = {}
    for label, choice in cases.items():
        fit = lmjax.curve_fit(peak, x, y, START, sigma=NOISE, **choice)
        fits[label] = fit.raise_if_failed()
        row = (f"{fit.params[k]:.3f} +- {fit.stderr[k]:.3f}" for k in TRUTH)
        print(f"{label:<16}" + "".join(f"{cell:>18}" for cell in row))
    print("(an error of nan: fixed or held at a bound, so there is none)")
    if options.plot:
        from matplotlib.figure import Figure

        axes = (figure := Figure(layout="constrained")).subplots()
        axes.plot(x, y, "k.", label="data")
        for label in ("plain", "robust"):
            axes.plot(x, fits[label].predict(x), label=label)
        axes.legend()
        figure.savefig(options.plot)


if __name__ == "__main__":
    main()
