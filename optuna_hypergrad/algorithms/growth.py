"""The growth from which derivatives of a training run are not to be trusted."""

DOMINATED = 2.0
"""log10 of the growth of derivatives, from a step to the end of a run, from which the derivative by
a value at this step is dominated by growth."""
