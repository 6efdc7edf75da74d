"""Uncertainty beyond the covariance: profiles and the bootstrap."""
