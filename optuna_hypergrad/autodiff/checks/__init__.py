"""Whether a training is what hypergradients take it for, found out on the first batch.

The training gradient must be a function of the weights, the batch, the model's buffers and modes,
and the random number generators; buffers that shape it must not depend on the weights; its
derivative must agree with differences in double precision; and the update must be differentiable.
"""
