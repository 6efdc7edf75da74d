"""Likelihoods: fits to counts and magnitudes, whose noise is not Gaussian.

``curve_fit(..., likelihood=...)`` minimises half the deviance, ``sum_i log L(best_i;
y_i) - log L(f_i; y_i)`` with f what the model returns and ``best`` the f under which y
is most probable: a maximum of the likelihood, zero for a perfect fit. Gaussian noise
needs none of this: that is what ``sigma`` is for.
"""

from lmjax.likelihoods._base import Likelihood as Likelihood
from lmjax.likelihoods._counts import Binomial as Binomial
from lmjax.likelihoods._counts import Poisson as Poisson
from lmjax.likelihoods._rician import Rician as Rician

NAMES = ("Likelihood", "Poisson", "Rician", "Binomial")
