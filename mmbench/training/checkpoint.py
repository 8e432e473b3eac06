"""Weights and training state in safetensors files: no pickle, written atomically, sealed by a hash in the header."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mmbench.atomic import write_with
from mmbench.errors import RunError
from mmbench.explain import explain

SEAL = "sha256"  # the key of the header that holds the hash of tensors and facts


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts (JSON) into a file with the hash of both, so that they are of the same moment."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    # Not `save_file`: it writes a temporary file of an unknown name beside the path, which a kill would leave behind,
    # and which only its owner may read.
    content = save(plain, metadata={"facts": text, SEAL: hash_tensors(plain, text)})
    write_with(path, lambda temporary: temporary.write_bytes(content))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and facts; RunError with the reason when the file is missing or not what was written."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            text, sha256 = header["facts"], header[SEAL]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if hash_tensors(tensors, text) != sha256:
            raise ValueError("its content does not have the hash that it carries")
        return tensors, json.loads(text)
    except Exception as error:  # of safetensors, json, torch and the system
        raise RunError(
            f"{path} is not a checkpoint of mmbench ({explain(error)}); remove {path.parent} and run the cell again"
        ) from error


def hash_tensors(tensors: Mapping[str, Tensor], facts: str = "") -> str:
    """Return the sha256 of tensors (names, types, shapes, bytes) and of the text of their facts, in hexadecimal."""
    total = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()


def load_facts(path: Path) -> dict[str, Any]:
    """Return the facts in a file's header; RunError when it is damaged."""
    return load_tensors(path)[1]


def load_weights(model: nn.Module, path: Path) -> dict[str, Any]:
    """Put a checkpoint's weights into `model`; a missing, unexpected or misshapen tensor is a RunError."""
    tensors, facts = load_tensors(path)
    weights = {
        name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")
    }
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        # torch names every tensor, which can be hundreds: the first tell a change of code from a change of sizes.
        reason = " ".join(str(error).split())
        raise RunError(
            f"{path} does not fit the model, made by other code or settings: {shorten(reason, 300)}"
        ) from error
    return facts


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {f"model/{name}": tensor for name, tensor in model.state_dict().items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the per-parameter state (moments, step counts); rates and the like come from the settings."""
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
