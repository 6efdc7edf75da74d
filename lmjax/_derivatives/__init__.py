"""Derivatives of a solution with respect to everything that it depends on."""
