"""Batches too large for one call: chunks, devices, checkpoints, second tries."""
