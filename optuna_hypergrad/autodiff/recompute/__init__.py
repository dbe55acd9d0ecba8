"""Reverse mode in bounded memory: checkpoints of a run, and steps computed again from them."""
