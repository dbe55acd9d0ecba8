"""The bar of an outer step: where it is seen, what fills it, and that it ends with the run."""

import io
import re
import sys
from contextlib import redirect_stderr

import pytest
import torch
from torch import Tensor
from tqdm import auto, notebook

from autodiff.problems import Batch, batch, batches, loss_fn, mlp
from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient
from optuna_hypergrad.autodiff.progress import PRODUCT, Progress

STEPS = 12


class Screen(io.StringIO):
    """A standard error that says it is a terminal, and keeps each drawing of the bar."""

    def isatty(self) -> bool:
        return True

    @property
    def drawn(self) -> list[str]:
        return [line for line in re.split(r"[\r\n]", self.getvalue()) if "%|" in line]

    @property
    def percents(self) -> list[int]:
        return [int(re.findall(r"(\d+)%\|", line)[0]) for line in self.drawn]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(auto.tqdm, "__init__", redrawn_always(auto.tqdm.__init__))
    return screen


def redrawn_always(init):
    """As ``init``; the bar does not wait for the clock."""
    return lambda *args, **options: init(*args, **options, mininterval=0.0)


def run(mode: str, screen: io.StringIO, loss=loss_fn, **options):
    data = batches(STEPS)
    update = SGD(Schedule("lr", [0.3, 0.1]), momentum=Schedule("m", [0.5]))
    options = {"progress": True, "steps": STEPS} | options
    with redirect_stderr(screen):
        return hypergradient(mlp(), loss, update, data, batch(9), mode=mode, **options)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_one_bar_fills_up_once_with_the_training_loss(mode: str, screen: Screen) -> None:
    result = run(mode, screen)
    assert screen.percents == sorted(screen.percents) and screen.percents[-1] == 100
    assert screen.getvalue().count("\n") == 1
    last = "going back" if mode == "reverse" else "training"
    assert screen.drawn[-1].startswith(f"{last} {STEPS}/{STEPS}")
    assert f"loss {result.train_losses[-1]:.4g}" in screen.drawn[-1]


def test_the_bar_is_filled_by_cost_not_by_number(screen: Screen) -> None:
    run("reverse", screen)
    trained = [line for line in screen.drawn if line.startswith(f"training {STEPS}/")]
    assert f" {100 / (2 + PRODUCT):.0f}%" in trained[-1]


def test_later_windows_make_forward_steps_dearer(screen: Screen) -> None:
    run("forward", screen)
    half = [line for line in screen.drawn if line.startswith(f"training {STEPS // 2}/")]
    early, late = 1 + 2 * PRODUCT, 1 + 3 * PRODUCT
    assert f" {100 * early / (early + late):.0f}%" in half[-1]


def test_steps_that_are_run_again_count(screen: Screen) -> None:
    result = run("reverse", screen, memory=8_000)
    assert result.recomputed > 0
    share = STEPS / (STEPS * (2 + PRODUCT) + result.recomputed)
    trained = [line for line in screen.drawn if line.startswith(f"training {STEPS}/")]
    assert f" {100 * share:.0f}%" in trained[-1]
    assert screen.percents[-1] == 100
    back = [line for line in screen.drawn if line.startswith("going back")]
    assert len(back) >= STEPS + result.recomputed  # it moves while stretches are run again


def test_training_alone_is_a_bar_too(screen: Screen) -> None:
    run("reverse", screen, learn=())
    assert screen.percents[-1] == 100 and "going back" not in screen.getvalue()


def test_a_run_of_one_step_has_a_bar(screen: Screen) -> None:
    run("reverse", screen, steps=1)
    assert screen.percents[-1] == 100


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_an_error_closes_the_bar_where_it_stands(mode: str, screen: Screen) -> None:
    def interrupt(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(mode, screen, on_step=interrupt)
    assert screen.drawn[-1].startswith(f"training 4/{STEPS}") and screen.percents[-1] < 100
    assert screen.getvalue().endswith("\n") and not auto.tqdm._instances


def test_an_error_on_the_way_back_closes_the_bar(screen: Screen) -> None:
    def tiring(model: torch.nn.Module, data: Batch) -> Tensor:
        if "going back 2/" in screen.getvalue():
            raise RuntimeError("tired")
        return loss_fn(model, data)

    with pytest.raises(RuntimeError, match="tired"):
        run("reverse", screen, tiring)
    assert screen.drawn[-1].startswith(f"going back 2/{STEPS}") and not auto.tqdm._instances


def test_nothing_is_written_to_what_is_no_terminal() -> None:
    stream = io.StringIO()
    run("reverse", stream)
    assert stream.getvalue() == ""


def test_a_notebook_gets_its_own_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its streams are not terminals, so that cannot be the condition."""
    shown: list[bool] = []

    class Widget(notebook.tqdm):
        def __init__(self, **options) -> None:
            shown.append(options["disable"] is False)
            super().__init__(**options | {"disable": True})

    monkeypatch.setattr(auto, "tqdm", Widget)
    with Progress() as bar:
        assert not bar.is_shown
    assert shown == [True]


def test_the_loss_is_read_when_the_bar_is_drawn_only() -> None:
    """Reading waits for the device; a bar that is drawn ten times a second can afford that."""
    reads: list[int] = []

    class Loss:
        def __float__(self) -> float:
            reads.append(1)
            return 0.5

    with redirect_stderr(Screen()), Progress() as bar:
        bar.expect(1e6)
        bar.phase("training", 10_000)
        for _ in range(10_000):
            bar.step(1.0, Loss())
    assert len(reads) < 1_000


def test_without_a_stream_for_errors_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress() as bar:
            assert not bar.is_shown
