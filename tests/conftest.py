"""What all tests share: two processes, each of which leaves the other its core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported
