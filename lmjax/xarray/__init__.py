"""Maps of fits: `curvefit` has the arguments and the result of xarray's own.

Needs the extra ``xarray``: ``pip install "lmjax[xarray]"``.
"""

from lmjax.xarray._curvefit import curvefit as curvefit
