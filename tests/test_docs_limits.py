"""docs/limits.md has the limits of all pages, and its errors are raised."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optuna_hypergrad import Schedule
from optuna_hypergrad.autodiff import SGD, hypergradient

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "limits.md").read_text()


@pytest.mark.parametrize("page", ["models.md", "population.md", "distributed.md"])
def test_limits_of_other_pages_are_here(page: str) -> None:
    section = (DOCS / page).read_text().split("\n## Limits\n")[1]
    (anchor,) = re.findall(r"\(limits\.md#([a-z-]+)\)", section)
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert "CUDA" in PAGE


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.embedding_bag(torch.tensor([[0, 1]]), x, mode="max").sum(),
        lambda x: F.multilabel_margin_loss(x, torch.zeros(x.shape, dtype=torch.long)),
        lambda x: F.multi_margin_loss(x, torch.zeros(len(x), dtype=torch.long)),
        lambda x: torch.segment_reduce(x.sum(1), "sum", lengths=torch.tensor([len(x)])).sum(),
    ],
    ids=["embedding_bag", "multilabel_margin_loss", "multi_margin_loss", "segment_reduce"],
)
def test_operations_without_second_derivative_raise(operation: object) -> None:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return operation(model(batch)).square()

    batch = torch.randn(4, 3)
    with pytest.raises(ValueError, match="derivative"):
        hypergradient(nn.Linear(3, 2), loss, SGD(Schedule("lr", [0.1])), [batch], batch, steps=2)
