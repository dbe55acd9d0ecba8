"""Losses whose training gradient is not the gradient of the loss as a function of the weights."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def batch() -> Batch:
    torch.manual_seed(0)
    x = torch.randn(16, 6, dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def cross_entropy(m: nn.Module, b: Batch) -> Tensor:
    return F.cross_entropy(m(b[0]), b[1])


def twin_networks(m: nn.Sequential, b: Batch) -> Tensor:
    """SimSiam: each view predicts the other one's detached features."""
    mix = torch.ones(8, 8, dtype=torch.float64).tril()
    z1, z2 = m[0](b[0]), m[0](b[0] * 1.1 + 0.1)
    p1, p2 = m[1](z1) @ mix, m[1](z2) @ mix
    similar = F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach())
    return 0.1 * F.cross_entropy(m[2](m[1](z1)), b[1]) - similar.mean() / 2


def pseudo_labels(m: nn.Module, b: Batch) -> Tensor:
    """Sharpened targets of the model's own, normalised in place without gradients."""
    with torch.no_grad():
        target = F.softmax(m(b[0] * 0.9), -1) ** 2
        target /= target.sum(-1, keepdim=True)
    own = F.kl_div(F.log_softmax(m(b[0]), -1), target, reduction="batchmean")
    return own + 0.3 * cross_entropy(m, b)


def quantised(m: nn.Sequential, b: Batch) -> Tensor:
    """VQ-VAE: codes that are weights, straight-through, and two losses with one side detached."""
    z, scale = m[0](b[0]), torch.arange(5.0, dtype=torch.float64)[:, None] * 0.2
    codes = m[0].weight.T[:5] + scale
    code = codes[(z[:, None] - codes[None]).square().sum(-1).argmin(-1)]
    hidden = torch.tanh(z + (code - z).detach())
    commitment = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
    return F.cross_entropy(m[2](hidden), b[1]) + commitment


def focal(m: nn.Module, b: Batch) -> Tensor:
    losses = F.cross_entropy(m(b[0]), b[1], reduction="none")
    return ((1 - torch.exp(-losses)).pow(2).data * losses).mean()


class Round(Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Reversed(Function):
    """Gradient reversal, whose strength depends on what it saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * g * (1 + ctx.saved_tensors[0].detach() ** 2), None


class Exp(Function):
    """Nothing but a faster backward."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


def rounded(m: nn.Sequential, b: Batch) -> Tensor:
    h = torch.tanh(m[0](b[0]))
    return F.cross_entropy(m[2](Round.apply(h) + 0.3 * h), b[1])


def adversarial_head(m: nn.Sequential, b: Batch) -> Tensor:
    h = torch.tanh(m[0](b[0]))
    return F.cross_entropy(m[2](h), b[1]) + m[2](Reversed.apply(h, 0.3)).square().mean()


def own_exponential(m: nn.Sequential, b: Batch) -> Tensor:
    return F.cross_entropy(m[2](Exp.apply(-(m[0](b[0]) ** 2))), b[1])


def hooked(m: nn.Sequential, b: Batch) -> Tensor:
    h = torch.tanh(m[0](b[0]))
    h.register_hook(lambda g: -g * h.detach().abs())
    return F.cross_entropy(m[2](h), b[1])


def gumbel(m: nn.Sequential, b: Batch) -> Tensor:
    torch.manual_seed(3)
    z = m[0](b[0])
    return F.cross_entropy(m[2](F.gumbel_softmax(z, hard=True) + z), b[1])


def balanced(m: nn.Sequential, b: Batch) -> Tensor:
    """Two losses, weighted by the ratio of their gradients, as in VQGAN."""
    first, second = cross_entropy(m, b), m[0](b[0]).square().mean()
    norms = [
        torch.autograd.grad(loss, m[0].weight, retain_graph=True)[0].norm()
        for loss in (first, second)
    ]
    return first + (norms[0] / (norms[1] + 0.1)).clamp(0, 10) * second


def gradient_penalty(m: nn.Module, b: Batch) -> Tensor:
    x = b[0].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(m(x).sum(), x, create_graph=True)
    return cross_entropy(m, b) + (gradient.norm(dim=1) - 1).square().mean()


def written_in_place(m: nn.Sequential, b: Batch) -> Tensor:
    h = m[0](b[0])
    target, mean = h.detach().clone(), torch.zeros(8, dtype=torch.float64)
    target[:, :3] = 0
    target.clamp_(-1, 1).mul_(2)
    with torch.no_grad():
        mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
        torch.mul(mean, 2.0, out=mean)
    return F.cross_entropy(m[2](torch.tanh(h)), b[1]) + (h - target - mean).square().mean()


def adversarial_examples(m: nn.Module, b: Batch) -> Tensor:
    shift = torch.zeros_like(b[0]).requires_grad_()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(cross_entropy(m, (b[0] + shift, b[1])), shift)
        shift = (shift + 0.3 * torch.tanh(50 * gradient)).detach().requires_grad_()
    return cross_entropy(m, (b[0] + shift, b[1]))


def nested_no_grad(m: nn.Module, b: Batch) -> Tensor:
    """Regions within regions, and one in which gradients are on again."""

    @torch.no_grad()
    def target(scale: float) -> Tensor:
        with torch.no_grad():
            inner = m(b[0] * scale)
        with torch.enable_grad():
            other = m(b[0] * 0.5)
        return inner + other.detach()

    def predicted() -> Tensor:
        with torch.no_grad():
            return target(0.9) + target(0.8).unbind(1)[0][:, None]

    return (m(b[0]) - predicted()).square().mean() + cross_entropy(m, b)


def padded(m: nn.Sequential, b: Batch) -> Tensor:
    """Rows of a table, one of them padding, whose gradient is left out, and counted ones."""
    index = (b[0].abs() * 3).long().clamp(max=7)
    rows = F.embedding(index, m[0].weight, padding_idx=0).mean(1)
    counted = F.embedding(index, m[0].weight, scale_grad_by_freq=True).mean(1)
    return F.cross_entropy(m[2](torch.cat([rows, rows[:, :2]], 1) + counted[:, [0] * 8]), b[1])


def sampled(m: nn.Sequential, b: Batch) -> Tensor:
    """REINFORCE with a normal policy, whose samples move with the weights."""
    torch.manual_seed(3)
    policy = torch.distributions.Normal(m(b[0]), 0.5)
    action = policy.sample()
    reward = (action - b[1][:, None]).abs()
    return (policy.log_prob(action) * (reward - reward.mean()).detach()).mean()


def live_in_place(m: nn.Sequential, b: Batch) -> Tensor:
    """What requires a gradient, written into what has required none."""
    h = m[0](b[0])
    target = h.detach() * 0.5
    target += 0.1 * h
    target[:, :3] = torch.tanh(h[:, :3])
    return F.cross_entropy(m[2](target.clamp_(-2, 2)), b[1])


def normalised_without_gradients(m: nn.Module, b: Batch) -> Tensor:
    with torch.no_grad():
        target = F.batch_norm(m(b[0]), torch.zeros(2), torch.ones(2), training=True)
    return (m(b[0]) - target).square().mean() + cross_entropy(m, b)


class Inside(Function):
    """Detaches within its forward, saves what it detached, and detaches within its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.detach().abs().mean()
        ctx.save_for_backward(x.detach() * scale)
        return x * scale

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.detach() * ctx.saved_tensors[0]


def detached_inside(m: nn.Sequential, b: Batch) -> Tensor:
    return F.cross_entropy(m[2](torch.tanh(m[0](b[0])) + Inside.apply(m[0](b[0]))), b[1])


def detached_before_gumbel(m: nn.Sequential, b: Batch) -> Tensor:
    torch.manual_seed(3)
    z = m[0](b[0])
    before = z.detach()
    hard = F.gumbel_softmax(z, hard=True)
    return F.cross_entropy(m[2](hard + Round.apply(z) * before + z), b[1])


def hook_of_a_module() -> nn.Module:
    m = network()
    m[1].register_full_backward_hook(lambda module, g, _: (3 * g[0] * g[0].abs().sqrt(),))
    return m


def hook_of_a_parameter() -> nn.Module:
    m = network()
    weight = m[0].weight
    weight.register_hook(lambda g: 3 * g * weight.detach().abs())
    return m


LOSSES: list[Loss] = [
    *(twin_networks, pseudo_labels, quantised, focal, rounded, adversarial_head, own_exponential),
    *(hooked, gumbel, balanced, gradient_penalty, written_in_place, adversarial_examples),
    *(nested_no_grad, padded, sampled, live_in_place, normalised_without_gradients),
    *(detached_inside, detached_before_gumbel),
]
PROBLEMS: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    **{loss.__name__: (network, loss) for loss in LOSSES},
    **{make.__name__: (make, cross_entropy) for make in (hook_of_a_module, hook_of_a_parameter)},
}
