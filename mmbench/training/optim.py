"""Optimisers, learning rates and gradient clipping, for a model or for several stacked along a leading axis S.

Adam and SGD are elementwise, so an optimiser over stacked parameters equals the optimisers of the single models.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mmbench.settings.config import TrainConfig


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that a stage trains, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_optimizer(
    model: nn.Module, config: TrainConfig, stacked: Mapping[str, Tensor] | None = None
) -> torch.optim.Optimizer:
    """Return the optimiser of a model's trained parameters, or of `stacked` tensors of the same names."""
    parameters, lr = trained(model), config.lr
    free = {name for name, parameter in parameters.items() if parameter.dim() <= 1 and not config.decay_1d}
    tensors = parameters if stacked is None else stacked
    decayed = [tensors[name] for name in parameters if name not in free]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [tensors[name] for name in parameters if name in free], "weight_decay": 0.0},
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
    """Return an optimiser's parameters in the order of its state."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def learning_rate(config: TrainConfig, epoch: int, step: int) -> float:
    """Return the rate of a step of the stage in an epoch of it, both counted from 1."""
    power = {"constant": 0, "exponential": epoch - 1, "exponential-early": epoch}[config.lr_schedule]
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    return config.lr * config.lr_gamma**power * warm


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters, where it lies on a device too."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip_each(parameters: Iterable[Tensor], largest: float) -> None:
    """Clip stacked gradients [S, ..] in place as `clip_grad_norm_` does, each model's by its own global norm."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([grad.flatten(1).norm(dim=1) if grad.dim() > 1 else grad.abs() for grad in grads])
    scale = (largest / (norms.norm(dim=0) + 1e-6)).clamp(max=1.0)  # [S]; 1e-6 as in torch
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))
