"""The table of model families in docs/models.md, and the command that writes it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_families import Family, families
from models import BOUND, Outcome, judged, measured, table, written

ROOT = Path(__file__).parents[2]
TINY = ("VisionTransformer", "MobileNetV3", "GPT2LMHeadModel")
BY_NAME: dict[str, Family] = {family.name: family for family in families()}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def outcome(name: str) -> Outcome:
    family = BY_NAME[name]
    pytest.importorskip(family.library)
    return measured(family)


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize("name", TINY)
@pytest.mark.slow
def test_a_family_runs(name: str) -> None:
    found = outcome(name)
    assert found.status == "runs" and max(found.reverse, found.forward) < BOUND / 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(BY_NAME.keys() - set(TINY)))
def test_every_family_is_as_the_table_says(name: str) -> None:
    expected = next(one for one in results() if one.name == name)
    assert outcome(name).status == expected.status


def test_wrong_hypergradients_are_seen() -> None:
    right, wrong = judged([0.03, 0.033], 0.1, lambda lr: lr**3)
    assert right < 1e-8 and wrong == pytest.approx(0.1) and wrong > BOUND


def results() -> list[Outcome]:
    path = ROOT / "examples" / "benchmarks" / "results" / "models.json"
    return [Outcome(**one) for one in json.loads(path.read_text())]


def test_the_page_has_the_table_of_the_results() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    assert written(page, table(results())) == page
    assert {one.name for one in results()} == BY_NAME.keys()
    assert len(results()) >= 30
