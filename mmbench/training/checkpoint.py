"""Weights and training state in safetensors files: no pickle, written in one step."""

import json
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mmbench.atomic import write_with
from mmbench.errors import RunError


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """`facts` (JSON) travel in the file's header, so tensors and facts are of the same moment."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # Not `save_file`: it writes a file of its own name beside the path, which a kill would leave there for ever, and
    # which only its owner may read.
    content = save(plain, metadata={"facts": json.dumps(facts)})
    write_with(path, lambda temporary: temporary.write_bytes(content))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts; RunError with the reason when the file is missing or damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"{path} is no checkpoint of mmbench ({error}); remove {path.parent} and run the cell again"
        ) from error


def load_facts(path: Path) -> dict[str, Any]:
    """Return the facts in a file's header; RunError when it is damaged."""
    return load_tensors(path)[1]


def load_weights(model: nn.Module, path: Path) -> dict[str, Any]:
    """Put a checkpoint's weights into `model`; a missing, unexpected or misshapen tensor is an error."""
    tensors, facts = load_tensors(path)
    weights = {
        name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")
    }
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        # torch names every tensor, which can be hundreds: the first ones tell a change of code from one of sizes.
        said = " ".join(str(error).split())
        raise RunError(
            f"{path} does not fit the model, made by other code or settings: {shorten(said, 300)}"
        ) from error
    return facts


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {f"model/{name}": tensor for name, tensor in model.state_dict().items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Per-parameter state (moments, step counts); rates and the like come from the settings."""
    return {
        f"optimizer/{index}/{key}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
