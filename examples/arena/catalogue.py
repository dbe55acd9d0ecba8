"""All jobs of the arena by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # the jobs use its networks

import jobs_gpu
import jobs_images
import jobs_tables
import jobs_text
import jobs_weights
from jobs import Job

JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        *(*jobs_tables.JOBS, *jobs_images.JOBS, *jobs_text.JOBS),
        *(*jobs_weights.JOBS, *jobs_gpu.JOBS),
    )
}
