"""The three entry points, what they share, and what they return."""
