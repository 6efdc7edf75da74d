"""Figures of fits; ``import lmjax.plot`` needs matplotlib.

Every function returns the matplotlib ``Figure`` and draws into axes that it is given,
so that figures can be combined; nothing is shown and no global state is touched.
"""

from lmjax.plot._contour import contour as contour
from lmjax.plot._maps import parameter_map as parameter_map
from lmjax.plot._overview import batch as batch
from lmjax.plot._profile import profile as profile
from lmjax.plot._single import convergence as convergence
from lmjax.plot._single import correlation as correlation
from lmjax.plot._single import fit as fit
