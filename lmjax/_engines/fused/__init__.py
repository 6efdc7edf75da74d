"""A batch of fits as one machine program: the fused engine."""
