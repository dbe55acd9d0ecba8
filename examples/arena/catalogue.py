"""All jobs of the arena by name."""

from __future__ import annotations

import jobs_tables
from jobs import Job

JOBS: dict[str, Job] = {job.name: job for job in jobs_tables.JOBS}
