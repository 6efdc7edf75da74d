"""Many small fits at once: workloads, peers and measurements, at equal final cost."""
