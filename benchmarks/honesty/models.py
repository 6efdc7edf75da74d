"""The curves of the synthetic problems, ``model(p, x)`` in jnp."""

import jax.numpy as jnp


def decay(p, x):
    """Amplitude, decay time, offset."""
    return p[0] * jnp.exp(-x / p[1]) + p[2]


def rate_decay(p, x):
    """Amplitude, rate, offset."""
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def exponential(p, x):
    """Amplitude, growth rate, offset."""
    return p[0] * jnp.exp(p[1] * x) + p[2]


def two_exponentials(p, x):
    """Two amplitudes and rates."""
    return p[0] * jnp.exp(-p[1] * x) + p[2] * jnp.exp(-p[3] * x)


def two_decays(p, x):
    """Two amplitudes and decay times, offset."""
    return p[0] * jnp.exp(-x / p[1]) + p[2] * jnp.exp(-x / p[3]) + p[4]


def stretched(p, x):
    """Amplitude, time, exponent and offset of a stretched exponential."""
    return p[0] * jnp.exp(-((x / p[1]) ** p[2])) + p[3]


def saturation(p, x):
    """Height, time and offset of an exponential rise."""
    return p[0] * (1 - jnp.exp(-x / p[1])) + p[2]


def power(p, x):
    """Factor and exponent."""
    return p[0] * x ** p[1]


def power_offset(p, x):
    """Factor, exponent and offset."""
    return p[0] * x ** p[1] + p[2]


def omori(p, x):
    """Factor, delay and exponent of aftershocks."""
    return p[0] / (x + p[1]) ** p[2]


def dose4(p, x):
    """Left and right level, dose and slope of a four-parameter logistic."""
    return p[1] + (p[0] - p[1]) / (1 + (x / p[2]) ** p[3])


def dose5(p, x):
    """As `dose4`, with an asymmetry."""
    return p[1] + (p[0] - p[1]) / (1 + (x / p[2]) ** p[3]) ** p[4]


def growth(p, x):
    """Height, midpoint, width and offset of a logistic."""
    return p[0] / (1 + jnp.exp(-(x - p[1]) / p[2])) + p[3]


def amplification(p, x):
    """Height, midpoint, slope, asymmetry and offset of a five-parameter logistic."""
    return p[0] / (1 + jnp.exp(-p[2] * (x - p[1]))) ** p[3] + p[4]


def gompertz(p, x):
    """Height, shift and rate."""
    return p[0] * jnp.exp(-p[1] * jnp.exp(-p[2] * x))


def michaelis_menten(p, x):
    """Largest rate and half-saturation."""
    return p[0] * x / (p[1] + x)


def haldane(p, x):
    """Largest rate, half-saturation and inhibition."""
    return p[0] * x / (p[1] + x + x**2 / p[2])


def hill(p, x):
    """Height, half-saturation and exponent."""
    return p[0] * x ** p[2] / (p[1] ** p[2] + x ** p[2])


def respiration(p, x):
    """Rate at 10 degrees, its rise, its fall beyond an optimum, the optimum."""
    rise = jnp.exp(p[1] * (x - 10))
    return p[0] * rise / (1 + jnp.exp(p[2] * (x - p[3])))


def _warburg(resistance, time, jw):
    """Return the impedance of a Warburg element with an open end.

    The hyperbolic cotangent is written with decaying exponentials: no overflow.
    """
    root = jnp.sqrt(jw * time)
    cotangent = (1 + jnp.exp(-2 * root)) / (1 - jnp.exp(-2 * root))
    return resistance * cotangent / root


def _rows(z):
    return jnp.stack([z.real, z.imag])


def nested_circuit(p, x):
    """R0 - (R1 | C1) - (R2 + Warburg | C2) over frequencies, as two rows.

    Parameters: R0, R1, C1, R2, the Warburg element's resistance and time, C2.
    """
    jw = 2j * jnp.pi * x
    branch = p[3] + _warburg(p[4], p[5], jw)
    first = p[1] / (1 + jw * p[1] * p[2])
    return _rows(p[0] + first + branch / (1 + jw * branch * p[6]))


def series_circuit(p, x):
    """R0 - (R1 | C1) - (R2 | C2) - Warburg over frequencies, as two rows.

    Parameters: R0, R1, C1, R2, C2, the Warburg element's resistance and time.
    """
    jw = 2j * jnp.pi * x
    first = p[1] / (1 + jw * p[1] * p[2])
    second = p[3] / (1 + jw * p[3] * p[4])
    return _rows(p[0] + first + second + _warburg(p[5], p[6], jw))


def gaussian(p, x):
    """Height, position, width and offset of a peak."""
    return p[0] * jnp.exp(-0.5 * ((x - p[1]) / p[2]) ** 2) + p[3]


def gaussian_on_line(p, x):
    """As `gaussian`, with a slope."""
    return gaussian(p, x) + p[4] * x


def lorentzian(p, x):
    """Height, position, width and offset of a peak."""
    return p[0] / (1 + ((x - p[1]) / p[2]) ** 2) + p[3]


def pseudo_voigt(p, x):
    """Height, position, width, share of the Lorentzian, offset."""
    z = ((x - p[1]) / p[2]) ** 2
    mixed = p[3] / (1 + z) + (1 - p[3]) * jnp.exp(-jnp.log(2.0) * z)
    return p[0] * mixed + p[4]


def two_peaks(p, x):
    """Two heights, positions and widths, offset."""
    return gaussian(p[:4], x) + gaussian(jnp.append(p[4:], 0 * p[0]), x)


def spot(p, x):
    """Height, both positions, width and offset of a round spot."""
    square = (x[0] - p[1]) ** 2 + (x[1] - p[2]) ** 2
    return p[0] * jnp.exp(-0.5 * square / p[3] ** 2) + p[4]


def constant(p, x):
    """One level."""
    return p[0] + 0 * x


def line(p, x):
    """Intercept and slope."""
    return p[0] + p[1] * x


def parabola(p, x):
    """Three coefficients."""
    return p[0] + p[1] * x + p[2] * x**2


def sine(p, x):
    """Amplitude, angular frequency, phase and offset."""
    return p[0] * jnp.sin(p[1] * x + p[2]) + p[3]


def ringing(p, x):
    """Amplitude, damping time, angular frequency, phase and offset."""
    return p[0] * jnp.exp(-x / p[1]) * jnp.cos(p[2] * x + p[3]) + p[4]


def rational(p, x):
    """Two coefficients above, two below."""
    return (p[0] + p[1] * x) / (1 + p[2] * x + p[3] * x**2)


def arrhenius(p, x):
    """Logarithm of the rate at 300 K and activation temperature."""
    return jnp.exp(p[0] - p[1] * (1 / x - 1 / 300.0))


def antoine(p, x):
    """Three coefficients of a vapour pressure."""
    return jnp.exp(p[0] - p[1] / (x + p[2]))


def langmuir(p, x):
    """Capacity and affinity, with a linear part."""
    return p[0] * p[1] * x / (1 + p[1] * x) + p[2] * x


def square_slope(p, x):
    """A slope that is a square, and an offset."""
    return p[0] ** 2 * x + p[1]


def square_peak(p, x):
    """A peak whose height is a square: data that dip have their minimum at zero."""
    return p[0] ** 2 * jnp.exp(-0.5 * (x - 5) ** 2) + p[1]
