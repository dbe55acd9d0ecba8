"""Training runs of equal shape, computed as one: their tensors are stacked along a new dimension.

| symbol | meaning                                     |
| ------ | ------------------------------------------- |
| R      | number of runs; the first dimension         |

The operations of a run are recorded (``tracing.py``) and then called for all runs at once.
"""
