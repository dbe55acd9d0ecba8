"""What a plain training costs on a machine whose speed changes with what else it does."""

from __future__ import annotations

import time
from collections import deque
from statistics import median

import torch
from jobs import Job
from training import Data, train

EVERY = 5  # plain trainings


class PlainTraining:
    """Seconds of a job's plain training, at the speed that the machine has now.

    On a shared machine, CPU seconds of the same training differ by a factor of two. So a plain
    training is timed three times at first, then again whenever the trials since cost ``EVERY``.
    """

    def __init__(self, job: Job, data: Data) -> None:
        self._training, self._data = job.plain_training(), data
        self._on_gpu = data.device.type == "cuda"
        self._last: deque[float] = deque(maxlen=3)
        self._time()  # warms up
        for _ in range(3):
            self._time()
        self._since = 0.0

    @property
    def seconds(self) -> float:
        """The median of the last three."""
        if self._since >= EVERY:
            self._time()
            self._since = 0.0
        return median(self._last)

    def clock(self) -> float:
        """CPU seconds of this process; with a GPU, seconds once the GPU has finished."""
        if not self._on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def cost(self, seconds: float, plain: float) -> float:
        """Seconds of a trial, in plain trainings of ``plain`` seconds."""
        self._since += seconds / plain
        return seconds / plain

    def _time(self) -> None:
        start = self.clock()
        train(self._training, self._data, seed=0)
        self._last.append(self.clock() - start)
