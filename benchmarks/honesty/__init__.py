"""How often a solver claims success where there is none, from wild starts."""
