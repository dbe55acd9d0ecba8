"""The paper's teacher, retrained for each clone.

PopulationSampler has one teacher for the whole population, whose steps have a fixed length for all
hyperparameters together: with many of them, each changes little. This one is trained from g = 1 for
each clone, with the student frozen (HPM, Eq. 9 and 10). The paper does not say how; the optimizer,
its rate and the number of steps are our choice.
"""

from __future__ import annotations

import torch
from populations_jobs import Data, draw
from populations_student import TEACHING_STEPS, Student
from torch import Tensor, nn

LR = 0.02  # Adam's: within all steps, an argument of tanh moves by 0.4 at most
MARGIN = 1e-3  # of a mutated value to the bounds of its range


class Teacher(nn.Module):
    """Weights g(h) = 1 + tanh(W softmax(Vᵀh)) of n hyperparameters, with W = 0 at first."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.keys, self.values = (
            nn.Parameter(0.1 * torch.randn(n, n)),
            nn.Parameter(torch.zeros(n, n)),
        )

    def forward(self, h: Tensor) -> Tensor:
        return 1 + torch.tanh(self.values @ torch.softmax(self.keys.T @ h, 0))


def mutate(student: Student, data: Data) -> dict[str, list[float]]:
    """Mutate a clone; its hyperparameters before and after, as fractions of their ranges."""
    before = student.fractions()
    teacher = Teacher(len(before)).to(before.device)
    adam = torch.optim.Adam(teacher.parameters(), lr=LR)
    for _ in range(TEACHING_STEPS):
        point = torch.logit(_mutated(teacher, before))
        loss = student.validation_loss(draw(data.validation, student.job.batch_size), point)
        gradients = torch.autograd.grad(loss, [*teacher.parameters()])
        for parameter, gradient in zip(teacher.parameters(), gradients, strict=True):
            parameter.grad = gradient
        adam.step()
    after = _mutated(teacher, before).detach()
    student.set_fractions(after)
    pairs = torch.stack([before, after], 1).tolist()
    return dict(zip(student.job.ranges, pairs, strict=True))


def _mutated(teacher: Teacher, h: Tensor) -> Tensor:
    return (teacher(h) * h).clamp(MARGIN, 1 - MARGIN)
