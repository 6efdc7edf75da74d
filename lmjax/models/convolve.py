r"""What an instrument makes of a signal: convolution with its response.

    out[i] = sum_j response[j] signal[i - j - shift]

Through the Fourier transform, where a delay of any fraction of a bin is a factor
``exp(-i omega shift)``. One way for all lengths: in a batch of decays with their
Jacobians (``python -m benchmarks.convolve``) the product with a Toeplitz matrix is a
little faster for 64 samples, slower from 128 on and several times slower for 1,024;
and where responses differ from fit to fit, it needs a matrix for each and takes ten
times as long for 64.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmjax._errors.checks import check_flag, check_real
from lmjax._jax.paths import common_dtype
from lmjax._jax.types import Scalar


def convolve(
    signal: Float[Array, " n"],
    response: Float[Array, " k"],
    *,
    shift: float | Scalar | None = None,
    periodic: bool = False,
) -> Float[Array, " n"]:
    """Return the signal as an instrument with this response records it.

    For use inside a model: instrument response functions of time-resolved fluorescence,
    arterial input functions, line shapes. Both are sampled at the same spacing; the
    first sample of the response means no delay. The response is used as it is: divide
    it by its sum for one that leaves the area of the signal alone, multiply by the
    spacing for an integral over time. Differentiable by all three; any of them may
    differ per fit under ``jax.vmap``.

    Rounding is relative to the largest value of the result, not to each: in float32
    what lies 1e-7 below the peak is noise. A NaN anywhere makes all of it NaN.

    Args:
        signal: Samples of the model.
        response: Samples of the response, of any length (periodic: at most that of the
            signal).
        shift: Delay of the response in samples, negative for earlier; fractions are
            interpolated by the band-limited curve through the samples, which is smooth
            in ``shift`` and keeps the area, where a straight line between samples would
            have a corner at every whole shift and widen the response. A response with
            steps rings. Not periodic: at most ``k`` in size. None is no shift.
        periodic: Whether the signal repeats, as between the pulses of a laser: what
            leaves at the end comes in at the start. Otherwise it is 0 before it begins.

    Returns:
        As many samples as the signal has.

    Raises:
        ValueError: If a shape is wrong, or a concrete shift too large.
        TypeError: If an argument is complex or no array.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> decay = jnp.array([8.0, 4.0, 2.0, 1.0])
        >>> response = jnp.array([0.5, 0.5])
        >>> print(*(f"{value:.1f}" for value in lmjax.convolve(decay, response)))
        4.0 6.0 3.0 1.5
        >>> around = lmjax.convolve(decay, response, periodic=True)
        >>> print(*(f"{value:.1f}" for value in around))
        4.5 6.0 3.0 1.5

    References:
        Bracewell (2000), The Fourier Transform and Its Applications, 3rd edition,
        chapters 6 (convolution and shift theorems) and 11 (discrete transform).
    """
    signal, response = _samples("signal", signal), _samples("response", response)
    if shift is not None:
        check_real("shift", shift)
    check_flag("periodic", periodic)
    dtype = common_dtype(signal, response)
    signal, response = signal.astype(dtype), response.astype(dtype)
    n, k = signal.size, response.size
    if periodic and k > n:
        raise ValueError(
            f"response: expected at most the {n} samples of the period, got {k}"
        )
    concrete = isinstance(shift, int | float | np.number)
    if concrete and not periodic and abs(shift) > k:
        raise ValueError(
            f"shift: expected at most the {k} samples of the response, got {shift}"
        )
    length = n
    if not periodic:
        # room for the tail of the response, and for it to move by its own length
        length = _quick_length(n + k - 1 if shift is None else n + 2 * k)
    product = jnp.fft.rfft(signal, length) * jnp.fft.rfft(response, length)
    if shift is not None:
        product = product * _delay(jnp.asarray(shift, dtype), length)
    return jnp.fft.irfft(product, length)[:n].astype(dtype)


def _samples(name: str, values) -> Array:
    try:
        values = jnp.asarray(values)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: expected samples, got {values!r}") from None
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"{name}: expected a row of samples, got shape {values.shape} "
            "(use jax.vmap for several)"
        )
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: expected real samples, got {values.dtype}")
    if jnp.issubdtype(values.dtype, jnp.floating):
        return values
    return values.astype(jnp.result_type(float))


def _delay(shift: Scalar, length: int) -> Array:
    """Return the factors of a delay; at the highest frequency only the real part."""
    if shift.ndim != 0:
        raise ValueError(f"shift: expected a number, got shape {shift.shape}")
    omega = jnp.arange(length // 2 + 1, dtype=shift.dtype) * (2.0 * jnp.pi / length)
    angle = omega * shift
    return jax.lax.complex(jnp.cos(angle), -jnp.sin(angle))


def _quick_length(least: int) -> int:
    """Return the smallest length from ``least`` on with no prime factor beyond 5."""
    length = least
    while _without_small_factors(length) != 1:
        length += 1
    return length


def _without_small_factors(number: int) -> int:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number
