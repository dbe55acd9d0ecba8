"""Going through a training run again: what it depends on, what is kept of it, and where."""

from __future__ import annotations
