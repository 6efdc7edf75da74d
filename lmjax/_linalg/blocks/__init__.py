"""Linear algebra of many small blocks of parameters."""
