"""How fits run: one loop, blocks of fits by XLA, one machine program for a batch."""
