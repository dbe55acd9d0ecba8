"""One training run over ranks gives what it gives in one process."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from launching import launch
from problems import PROBLEMS, STEPS, solved

from autodiff.problems import batch, batches, loss_fn, mlp
from optuna_hypergrad import Schedule, autodiff, distributed
from optuna_hypergrad.autodiff import SGD
from optuna_hypergrad.autodiff.hparams import RunHparams
from optuna_hypergrad.autodiff.tangents import TangentSchedule
from optuna_hypergrad.distributed.training import count_products, divide


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Double precision, as the programs have it."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return [rank["solutions"] for rank in launch("peaceful", 2)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_result_is_that_of_one_process(name: str, found: list[dict[str, Any]]) -> None:
    alone = solved(autodiff.hypergradient, name)
    for rank in found:
        one = rank[name]
        assert list(one["gradient"]) == list(alone.gradient)
        for parameter, derivative in alone.gradient.items():
            assert one["gradient"][parameter] == pytest.approx(derivative, rel=1e-12, abs=1e-14)
        np.testing.assert_allclose(one["train_losses"], alone.train_losses, rtol=1e-14)
        assert one["loss"] == pytest.approx(alone.loss, rel=1e-14)
        assert one["products"] == alone.products
        assert one["clipped"] == pytest.approx(alone.clipped, rel=1e-12)
        assert one["tangent_norm"] == pytest.approx(alone.tangent_norm, rel=1e-12)
        if alone.growth is not None:
            # Of all shares, the largest growth at each step.
            assert one["growth"]["total"] >= alone.growth.total - 1e-9
            assert all(one["growth"]["trust"][k] <= v + 1e-9 for k, v in alone.growth.trust.items())
        assert one["mode"] == "forward" and one["cost"]["seconds"] > 0


@pytest.mark.parametrize("name", PROBLEMS)
def test_all_ranks_have_the_same_result(name: str, found: list[dict[str, Any]]) -> None:
    assert found[0][name] == found[1][name]


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_shares_of_a_run_make_up_the_full_result(name: str) -> None:
    full = solved(autodiff.hypergradient, name)
    parts = [
        solved(lambda *a, share=share, **o: autodiff.hypergradient(*a, share=share, **o), name)
        for share in [list(full.gradient)[::2], list(full.gradient)[1::2]]
    ]
    together = parts[0].gradient | parts[1].gradient
    assert together == pytest.approx(full.gradient, rel=1e-12, abs=1e-14)
    assert sum(part.products for part in parts) == full.products
    for part in parts:  # bit by bit, so that ranks do not drift apart
        assert part.train_losses == full.train_losses and part.loss == full.loss


def test_one_rank_is_one_process() -> None:
    assert solved(distributed.hypergradient, "sgd").gradient == pytest.approx(
        solved(autodiff.hypergradient, "sgd").gradient, rel=1e-14
    )


def test_work_counts_the_products_of_each_tangent() -> None:
    for name, problem in PROBLEMS.items():
        options = problem.options
        hypers = RunHparams(
            problem.update.hypers, options.get("hypers", {}), options.get("learn"), STEPS
        )
        tangents = TangentSchedule(hypers, options.get("truncate", 0.0), "leading")
        work = count_products(tangents, STEPS)
        products = solved(autodiff.hypergradient, name).products
        # The step at which a tangent of the update begins needs no product.
        assert products <= sum(work.values()) <= products + len(work)


def test_shares_are_even_where_windows_begin_one_after_another() -> None:
    schedules = {name: Schedule(name, [0.1] * 10) for name in ("lr", "m", "wd")}
    work = count_products(
        TangentSchedule(RunHparams(schedules, {}, None, 1000), 0.0, "leading"), 1000
    )
    assert work["lr_0"] == 1000 and work["wd_9"] == 100
    for size in (2, 3, 4, 8):
        shares = divide(work, size)
        loads = [sum(work[name] for name in share) for share in shares]
        assert sorted(name for share in shares for name in share) == sorted(work)
        assert max(loads) <= 1.1 * sum(loads) / size


def run(**options: Any) -> None:
    data = {"steps": 2, **options}
    distributed.hypergradient(mlp(), loss_fn, SGD(0.1), batches(2), batch(4), **data)


@pytest.mark.parametrize("mode", ["reverse", "sideways"])
def test_only_forward_mode_is_spread(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode must be 'auto' or 'forward' .* got '{mode}'"):
        run(mode=mode)


def test_auto_with_one_rank_is_that_of_one_process() -> None:
    alone = solved(autodiff.hypergradient, "sgd", mode="auto")
    found = solved(distributed.hypergradient, "sgd", mode="auto")
    assert alone.mode == found.mode == "reverse" and found.gradient == alone.gradient


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="steps"):
        run(steps=0)
    with pytest.raises(ValueError, match="learn"):
        run(learn=["lr"])
    with pytest.raises(ValueError, match="update"):
        distributed.hypergradient(mlp(), loss_fn, 0.1, batches(2), batch(4), steps=2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no_such"):
        run(no_such=1)
    with distributed.join().together():  # so that gathers of this process work again
        pass


def test_a_share_is_for_forward_mode_and_of_what_is_learned() -> None:
    update, data = SGD(Schedule("lr", [0.1, 0.2])), batches(2)

    def half(mode: str, share: str) -> autodiff.Hypergradient:
        return autodiff.hypergradient(
            mlp(), loss_fn, update, data, data[0], steps=2, mode=mode, share=[share]
        )

    assert half("auto", "lr_1").mode == "forward"
    with pytest.raises(ValueError, match="share is for mode='forward'"):
        half("reverse", "lr_1")
    with pytest.raises(ValueError, match="share: 'momentum' is not a learned parameter"):
        half("forward", "momentum")
