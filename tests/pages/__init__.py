"""The code of README.md and docs, run as a reader would: see ``run`` and ``test_pages``."""
