# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices (also stacked ones), AdamW for everything else."""

import torch


def orthogonalise(g, steps=5):
    """Newton-Schulz iteration of Jordan et al., "Muon" (2024), batched over leading dimensions."""
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def build(model, muon_rate, adam_rate):
    """Return the two optimizers of a model; embedding, head, router and norms go to AdamW."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        plain = p.dim() < 2 or name.startswith(("embed_tokens", "lm_head")) or name.endswith("mlp.gate.weight")
        (others if plain else matrices).append(p)
    return [
        Muon(matrices, lr=muon_rate),
        torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
