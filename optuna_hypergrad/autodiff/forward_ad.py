"""Torch's forward mode, one thread at a time."""

from __future__ import annotations

import threading
import warnings

import torch
from torch.func import jvp

forward_mode = threading.RLock()
"""To be held while torch differentiates forwards: its nesting levels belong to the process, and a
thread that leaves one takes it from the others."""

with warnings.catch_warnings():
    # torch 2.15 warns of its own torch.jit.script when forward mode is entered for the first time.
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    jvp(torch.neg, (torch.zeros(()),), (torch.zeros(()),))
