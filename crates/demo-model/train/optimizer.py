"""Muon (orthogonalised momentum) for the hidden matrices, Adam for embeddings, head, router and norms."""

import torch
from torch import Tensor

from model import Model

MATRIX_RATE, ADAM_RATE = 0.02, 3e-3
MOMENTUM, BETAS, EPSILON = 0.95, (0.9, 0.98), 1e-9
MATRIX_DECAY = 0.02


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values about 1, by five Newton-Schulz steps; batches in front are kept."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon:
    def __init__(self, model: Model):
        named = dict(model.named_parameters())
        self.matrices = {n: p for n, p in named.items() if p.dim() >= 2 and not n.endswith(("embed_tokens", "lm_head", "router"))}
        self.others = {n: p for n, p in named.items() if n not in self.matrices}
        self.momentum = {n: torch.zeros_like(p) for n, p in self.matrices.items()}
        self.first = {n: torch.zeros_like(p) for n, p in self.others.items()}
        self.second = {n: torch.zeros_like(p) for n, p in self.others.items()}
        self.steps = 0

    def state_dict(self) -> dict:
        return {"momentum": self.momentum, "first": self.first, "second": self.second, "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.momentum, self.first, self.second, self.steps = (state[k] for k in ("momentum", "first", "second", "steps"))

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One step at `share` of the full rates; clears the gradients."""
        self.steps += 1
        for name, parameter in self.matrices.items():
            momentum = self.momentum[name]
            momentum.lerp_(parameter.grad, 1 - MOMENTUM)
            update = orthogonal(parameter.grad.lerp(momentum, MOMENTUM))
            rate = MATRIX_RATE * share * max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
            parameter.mul_(1 - rate * MATRIX_DECAY).add_(update, alpha=-rate)
            parameter.grad = None
        for name, parameter in self.others.items():
            first, second = self.first[name], self.second[name]
            first.lerp_(parameter.grad, 1 - BETAS[0])
            second.lerp_(parameter.grad.square(), 1 - BETAS[1])
            corrected = first / (1 - BETAS[0] ** self.steps)
            scale = (second / (1 - BETAS[1] ** self.steps)).sqrt() + EPSILON
            parameter.add_(corrected / scale, alpha=-ADAM_RATE * share)
            parameter.grad = None
