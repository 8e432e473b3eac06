"""Optimisers, learning rates and gradient clipping, for one model or for several stacked along a leading axis S.

Adam and SGD are elementwise, so one optimiser over stacked parameters is the optimisers of the single models.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mmbench.settings.config import TrainConfig


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that a stage trains, by name."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def make_optimizer(
    model: nn.Module, config: TrainConfig, lr: float, stacked: Mapping[str, Tensor] | None = None
) -> torch.optim.Optimizer:
    """Over the model's trained parameters, or over `stacked` tensors of the same names in their place."""
    own = trained(model)
    free = {name for name, one in own.items() if one.dim() <= 1 and not config.decay_1d}
    tensors = own if stacked is None else stacked
    groups = [
        {"params": [tensors[name] for name in own if name not in free], "weight_decay": config.weight_decay},
        {"params": [tensors[name] for name in own if name in free], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    betas, device = (config.beta1, config.beta2), next(iter(tensors.values())).device
    if device.type != "cuda":
        return kind(groups, lr=lr, betas=betas, eps=config.adam_eps, fused=True)
    # A CUDA graph reads the rate where it lies on the device.
    rate = torch.tensor(lr, device=device)
    return kind(groups, lr=rate, betas=betas, eps=config.adam_eps, fused=True, capturable=True)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """In the order of the optimiser's state."""
    return [one for group in optimizer.param_groups for one in group["params"]]


def learning_rate(config: TrainConfig, base: float, epoch: int, step: int) -> float:
    """Rate of 1-based `step` (of the stage) in 1-based `epoch`."""
    power = {"constant": 0, "exponential": epoch - 1, "exponential-early": epoch}[config.lr_schedule]
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    return base * config.lr_gamma**power * warm


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip_each(parameters: Iterable[Tensor], largest: float) -> None:
    """`clip_grad_norm_` for stacked parameters [S, ..]: each model's gradient gets its own global norm."""
    grads = [one.grad for one in parameters if one.grad is not None]
    norms = torch.stack([grad.flatten(1).norm(dim=1) if grad.dim() > 1 else grad.abs() for grad in grads])
    scale = (largest / (norms.norm(dim=0) + 1e-6)).clamp(max=1.0)  # [S]; 1e-6 as in torch
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))
