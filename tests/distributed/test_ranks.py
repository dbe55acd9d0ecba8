"""Ranks that fail, die, hang, or do not do the same: all hear of it, and nobody waits."""

import re
import signal
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from launching import IDLE, ended, launch, start

from optuna_hypergrad.distributed import RankError, Ranks, join
from optuna_hypergrad.distributed.training import LossComparison


@pytest.fixture(scope="module")
def quarrels() -> list[dict[str, str]]:
    return [rank["quarrels"] for rank in launch("peaceful", 2)]


DIFFERENCES = {
    "weights": "the checksum of the initial weights: ",
    "steps": "steps: 12 on rank 0, 13 on rank 1",
    "values": "lr of the update: .*0.1.* on rank 0, .*1.1.* on rank 1",
    "learned": r"the learned parameters: \['lr_0', 'lr_1'\] on rank 0, \['lr_0'\] on rank 1",
    "learned by one": r"eps of the \w+: 0.1 on rank 0, None on rank 1",
    "averaged": "average: False on rank 0, True on rank 1",
    "clipped": "clip_products: None on rank 0, 0.01 on rank 1",
    "truncated": "truncate: 0.0 on rank 0, 0.5 on rank 1",
    "order": "the training loss of step 0: ",
    "late": "the training loss of step 11: ",
    "elsewhere": "rank 0 is at dinner and rank 1 at lunch",
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_differs_is_named_on_all_ranks(name: str, quarrels: list[dict[str, str]]) -> None:
    for rank, found in enumerate(quarrels):
        assert re.match(f"RankError: rank {rank} of 2: {DIFFERENCES[name]}", found[name])


def test_an_error_of_one_rank_reaches_the_others(quarrels: list[dict[str, str]]) -> None:
    first, second = (found["raised"] for found in quarrels)
    assert second == "ValueError: the disk of rank 1"
    assert first == f"RankError: rank 0 of 2: rank 1 raised {second}."


def test_they_go_on_together_afterwards(quarrels: list[dict[str, str]]) -> None:
    assert [found["peace"] for found in quarrels] == ["fine", "fine"]


@pytest.mark.slow
def test_a_dead_rank_is_an_error_within_seconds() -> None:
    start_of_all = time.monotonic()
    other, dead = ended(start("dying", 2))
    error, states = other.found
    assert dead.code == -signal.SIGKILL
    assert error.startswith("rank 0 of 2: lost another rank at the training loss of step 5")
    assert other.code == 0 and other.threads == IDLE
    assert states == ["COMPLETE", "FAIL"]  # of five trials that catch the error: no more is begun
    assert time.monotonic() - start_of_all < 60  # the timeout is half an hour


@pytest.mark.slow
def test_a_rank_that_hangs_is_waited_for_no_longer_than_said() -> None:
    waiting, hanging = launch("hanging", 2, "4")
    assert waiting == (
        "rank 0 of 2: lost another rank at the training loss of step 5: it has ended, or has not "
        "answered in time, or the network is down; its own output may say more."
    )
    assert hanging.startswith("rank 1 of 2: lost another rank")  # when it comes back


def test_after_an_error_gathers_fail_until_all_begin_again() -> None:
    ranks = Ranks(None)
    with pytest.raises(KeyError), ranks.together():
        raise KeyError("x")
    with pytest.raises(RankError, match="rank 0 of 1: rank 0 raised KeyError: 'x'"):
        ranks.gather("lunch")
    with ranks.together():
        assert ranks.gather("lunch", {"a": [1.5, None]}) == [{"a": [1.5, None]}]


class Both(Ranks):
    """Rank 0 of two; a value is the pair of both."""

    def gather(self, place: str, value: Any = None) -> list[Any]:
        return list(value)


def compare(*losses: tuple[float, float]) -> None:
    """Compare the losses of the two ranks, step by step, in single precision."""
    comparison = LossComparison(Both(None), 100, torch.finfo(torch.float32).eps ** 0.5, None)
    for step, pair in enumerate(losses):
        comparison.compare(f"the loss of step {step}", pair)  # type: ignore[arg-type]


def test_a_spike_of_the_loss_does_not_hide_a_difference_afterwards() -> None:
    with pytest.raises(RankError, match=r"the loss of step 1: 1\.0 on rank 0, 1\.3 on"):
        compare((22431.0, 22431.0), (1.0, 1.3))


def test_rounding_is_no_difference() -> None:
    compare((2.0, 2.0), (1.0, 1.0001), (3e-8, 7e-8), (float("nan"), float("inf")))


def test_the_old_names_of_gather_and_broadcast_warn() -> None:
    ranks = Ranks(None)
    with pytest.warns(FutureWarning, match="now called gather"):
        assert ranks.meet("lunch", 1) == [1]
    with pytest.warns(FutureWarning, match="now called broadcast"):
        assert ranks.told("lunch", lambda: 2) == 2


def test_a_process_on_its_own_joins_nobody() -> None:
    assert join() is join() and join().size == 1 and join().is_first
    assert not dist.is_initialized()


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_is_a_positive_number(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds"):
        join(timeout=timeout)


def test_a_timeout_that_comes_too_late_is_an_error() -> None:
    join()
    with pytest.raises(ValueError, match="timeout: this process has joined already"):
        join(timeout=5.0)
