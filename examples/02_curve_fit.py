"""How fast is the enzyme, and how well do twelve measurements tell?

Michaelis-Menten kinetics, ``rate = Vm conc / (K + conc)``, of puromycin-treated
galactosyltransferase: Treloar (1974), M.Sc. thesis, University of Toronto, as printed
in Bates and Watts (1988), "Nonlinear Regression Analysis and Its Applications", A1.3.

Expect what R's ``nls`` prints: Vm 212.7 +- 6.947 and K 0.06412 +- 0.008281. The
prediction band for a new measurement is wider than the confidence band of the curve.
"""

import argparse

import jax
import jax.numpy as jnp

import lmjax

jax.config.update("jax_enable_x64", True)  # four digits of an error bar need float64

CONC = jnp.repeat(jnp.array([0.02, 0.06, 0.11, 0.22, 0.56, 1.10]), 2)  # ppm
RATE = jnp.array(
    [76.0, 47.0, 97.0, 107.0, 123.0, 139.0, 159.0, 152.0, 191.0, 201.0, 207.0, 200.0]
)  # counts/min^2
START = {"Vm": 150.0, "K": 0.1}
PUBLISHED = {"Vm": (212.7, 6.947), "K": (0.06412, 0.008281)}


def michaelis_menten(params, conc):
    """Return the rate at substrate concentration ``conc``."""
    return params["Vm"] * conc / (params["K"] + conc)


def plot(path, fit):
    """Draw data, curve and both 95 % bands."""
    from matplotlib.figure import Figure

    conc = jnp.linspace(0.0, 1.2, 200)
    axes = (figure := Figure(layout="constrained")).subplots()
    axes.fill_between(conc, *fit.prediction_band(conc), alpha=0.2, label="prediction")
    axes.fill_between(conc, *fit.confidence_band(conc), alpha=0.4, label="confidence")
    axes.plot(conc, fit.predict(conc))
    axes.plot(CONC, RATE, "ko", label="Treloar (1974)")
    axes.set(xlabel="substrate (ppm)", ylabel="rate (counts/min$^2$)")
    axes.legend()
    figure.savefig(path)


def main():
    """Fit, compare with R, print the report and the bands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    options = parser.parse_args()

    fit = lmjax.curve_fit(michaelis_menten, CONC, RATE, START)

    for name, (value, error) in PUBLISHED.items():
        ours = f"{fit.params[name]:.4g} +- {fit.stderr[name]:.4g}"
        print(f"{name:<3} {ours:<22} R: {value} +- {error}")
    print(f"\n{fit.report()}\n")
    print("conc    curve  95 % confidence    95 % prediction")
    conc = jnp.array([0.05, 0.2, 1.0])
    bands = (*fit.confidence_band(conc), *fit.prediction_band(conc))
    for c, rate, *limits in zip(conc, fit.predict(conc), *bands, strict=True):
        low, high, new_low, new_high = limits
        print(f"{c:4.2f}  {rate:7.1f}  {low:6.1f} .. {high:5.1f}", end="")
        print(f"    {new_low:6.1f} .. {new_high:5.1f}")
    if options.plot:
        plot(options.plot, fit)


if __name__ == "__main__":
    main()
