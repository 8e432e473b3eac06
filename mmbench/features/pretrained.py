"""What all pretrained encoders share: finding a model's folder, hashing it, loading it whole, reading its layers.

Weights come from a folder or from the hub's cache; if they are in neither, they are downloaded. No model is ever half
loaded: a weight that the model or the file lacks is an error, except for heads that no encoder here uses.
"""

import fnmatch
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.atomic import hash_file
from mmbench.errors import DataError, UsageError, suggest
from mmbench.features.torchvision_import import prepare_torchvision
from mmbench.runtime import pick_device

if TYPE_CHECKING:
    from torch import Tensor, nn

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # in order of preference; matches shards, too
# These are heads, which no encoder here reads, and constants that are computed.
UNUSED_MISSING = ("pooler.*",)
UNUSED_UNEXPECTED = ("cls.*", "lm_head.*", "pooler.*", "*position_ids")
_DOWNLOAD = ("*.json", "*.txt", "*.model", "model*.safetensors")


def resolve_device(device: str, precision: str) -> tuple[str, str]:
    """Return the device, and "float32", "bfloat16" or "float16"; UsageError when they do not go together.

    `auto` means mixed precision on a GPU (bfloat16 if the GPU has it) and float32 on a CPU.
    """
    if precision not in PRECISIONS:
        raise UsageError(suggest(precision, PRECISIONS, what="precision"))
    chosen = pick_device(device)
    if not chosen.startswith("cuda"):
        if precision in ("bfloat16", "float16"):
            raise UsageError(f"precision {precision} is for GPUs; on {chosen} use float32 or auto")
        return chosen, "float32"
    if precision == "auto":
        import torch

        precision = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return chosen, precision


def mixed(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return an autocast context for the precision, an empty context for float32."""
    if precision == "float32":
        return nullcontext()
    import torch

    return torch.autocast(device.split(":")[0], dtype=getattr(torch, precision))


def import_transformers() -> Any:
    """Return the `transformers` module, importable and quiet."""
    prepare_torchvision()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return transformers


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder. `revision` is the hub's commit, "" for a user's folder."""

    folder: Path
    revision: str = ""

    def weight_files(self) -> list[Path]:
        """Return the files that hold the weights: safetensors, else .bin; DataError when there are none."""
        for pattern in WEIGHTS:
            files = sorted(self.folder.glob(pattern))
            if files:
                return files
        raise DataError(
            f"{self.folder} holds no weights ({' or '.join(WEIGHTS)}); save or download the model again"
        )

    def hashes(self, files: Sequence[Path]) -> dict[str, str]:
        """Return file name -> sha256."""
        return {file.name: _hash_once(*_stamp(file)) for file in files}


def _stamp(file: Path) -> tuple[Path, int, int]:
    try:
        real = file.resolve()
        status = real.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); download the model again") from error
    return real, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _hash_once(file: Path, size: int, mtime: int) -> str:
    return hash_file(file)


def find_checkpoint(source: str) -> Checkpoint:
    """Return a local folder, else the hub's cache, else a download; DataError says what to do when all fail."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder} holds no config.json; give the folder of a saved transformers model")
        return Checkpoint(folder)
    if source.startswith((".", "/", "~", "\\")) or source.count("/") != 1:
        raise UsageError(
            f"folder {source} not found; give the folder of a saved model, or owner/name on the hub"
        )
    import_transformers()
    return _cached(source) or _download(source)


def _cached(source: str) -> Checkpoint | None:
    """Return what an earlier download left, if it is complete."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError):  # LocalEntryNotFoundError is both
        return None
    checkpoint = Checkpoint(folder, folder.name)
    complete = (folder / "config.json").is_file() and any(any(folder.glob(pattern)) for pattern in WEIGHTS)
    return checkpoint if complete else None


def _download(source: str) -> Checkpoint:
    """Download into the hub's cache, with the hub's progress bars."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty():
        enable_progress_bars()
    try:
        folder = Path(snapshot_download(source, allow_patterns=list(_DOWNLOAD)))
        if not any(folder.glob(WEIGHTS[0])):
            folder = Path(snapshot_download(source, allow_patterns=[*_DOWNLOAD, WEIGHTS[1]]))
    # The hub's library passes on whatever its network layer raises; any of it means "not downloaded".
    except Exception as error:
        cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
        raise DataError(
            f"{source} is not in {cache} and cannot be downloaded ({type(error).__name__}); connect to the hub, "
            f"copy a cache there (or name it by HF_HOME), or give the folder of a saved copy instead of {source}"
        ) from error
    finally:
        disable_progress_bars()
    return Checkpoint(folder, folder.name)


def load_whole(
    load: Callable[..., tuple[Any, dict[str, Any]]],
    checkpoint: Checkpoint,
    *,
    missing: Sequence[str] = UNUSED_MISSING,
    unexpected: Sequence[str] = UNUSED_UNEXPECTED,
    **options: Any,
) -> Any:
    """Load a folder with `AutoModel.from_pretrained` or a like function; return the model in float32 and eval mode.

    A weight that only the model has is an error unless it matches a pattern of `missing`; a weight that only the files
    have, unless it matches a pattern of `unexpected`.
    """
    try:
        model, info = load(checkpoint.folder, output_loading_info=True, local_files_only=True, **options)
    # Damaged files and unknown architectures raise nearly anything here.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{checkpoint.folder} cannot be loaded ({reason}); download the model again"
        ) from error
    check_whole(
        checkpoint.folder,
        [name for name in info["missing_keys"] if not _fits(name, missing)],
        [name for name in info["unexpected_keys"] if not _fits(name, unexpected)],
    )
    return model.float().eval()


def check_whole(folder: Path, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Raise DataError that names the first weights that are missing or unknown."""
    for names, what in ((missing, "lacks"), (unexpected, "has unknown")):
        if names:
            first = ", ".join(sorted(names)[:3])
            raise DataError(
                f"{folder} {what} weights: {len(names)}, first {first}; "
                "the model would be half loaded; give the checkpoint of the whole model"
            )


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def find_blocks(model: "nn.Module", n_layers: int) -> "Sequence[nn.Module]":
    """Return the model's blocks: its only list of `n_layers` modules; DataError when there are none or several."""
    from torch import nn

    lists = [
        module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if len(lists) != 1:
        raise DataError(
            f"{type(model).__name__} has {len(lists)} lists of {n_layers} layers, so its blocks cannot be identified; "
            "leave out +layers"
        )
    return list(lists[0])


@contextmanager
def first_token_states(blocks: "Sequence[nn.Module]") -> "Iterator[list[Tensor]]":
    """Collect the first token's state before the first block and after each block, [B, D] each, in float32.

    Hooks on the blocks collect them, because some versions of transformers replace the last of their `hidden_states`
    by the normalised output, which is not the state of a block.
    """
    states: list[Tensor] = []

    def before_block(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        states.append((args[0] if args else named["hidden_states"])[:, 0].float())

    def after_block(_: Any, __: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output)[:, 0].float())

    hooks = [blocks[0].register_forward_pre_hook(before_block, with_kwargs=True)]
    hooks += [block.register_forward_hook(after_block) for block in blocks]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
