"""Linear algebra of least squares: J, its normal matrix, their inverses."""
