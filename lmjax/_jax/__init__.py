"""What lmjax adds to JAX; nothing here knows of least squares."""
