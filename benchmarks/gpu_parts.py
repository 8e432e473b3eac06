"""Parts of the work on a GPU, each by itself: CUDA graphs, large catalogues, the cross entropy, encoders.

Each function measures one thing and returns a `Part`. Times are of the device (CUDA events) where there is one.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.generated import histories
from benchmarks.turns import Timed
from benchmarks.worker import make_catalog
from mmbench.data.split import leave_one_out
from mmbench.data.views import TargetView, target_view, training_view
from mmbench.evaluation.ranking import rank
from mmbench.models import registry
from mmbench.nn.losses import cross_entropy
from mmbench.runs.plan import make_configs
from mmbench.settings.config import Layer, Origin, TrainConfig, defaults_of, resolve
from mmbench.training.batches import STEPS_AT_ONCE, batches_of_epoch
from mmbench.training.precision import on_own_stream
from mmbench.training.trainer import Trainer

HEADER = ("part", "size", "variant", "ms", "MiB", "rate")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was measured of one part."""

    part: str
    size: str
    variant: str
    ms: tuple[float, ...] = ()
    memory: int = 0  # bytes, beyond what lay there before
    rate: str = ""
    reason: str = ""  # why there are no numbers

    def cells(self) -> list[str]:
        if self.reason:
            return [self.part, self.size, self.variant, self.reason, "–", "–"]
        memory = f"{self.memory / 2**20:,.0f}" if self.memory else "–"
        return [self.part, self.size, self.variant, str(Timed(self.ms)), memory, self.rate or "–"]


def measured(
    work: Callable[[], object], device: str, *, repeats: int = 20, warm_up: int = 3
) -> tuple[tuple[float, ...], int]:
    """Milliseconds of each repeat, and the largest memory that one took beyond what was there."""
    for _ in range(warm_up):
        work()
    if not device.startswith("cuda"):
        spent = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            spent.append(1e3 * (time.perf_counter() - began))
        return tuple(spent), 0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    spent = [a.elapsed_time(b) for a, b in pairwise(marks)]
    return tuple(spent), torch.cuda.max_memory_allocated() - before


def attempt(
    part: str,
    size: str,
    variant: str,
    work: Callable[[], tuple[tuple[float, ...], int]],
    rate: Callable[[float], str] = lambda ms: "",
) -> Part:
    """A part, or why it could not be measured."""
    try:
        ms, memory = work()
    except Exception as error:  # the next parts are measured all the same
        text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        return Part(part=part, size=size, variant=variant, reason=f"failed: {text}")
    return Part(part=part, size=size, variant=variant, ms=ms, memory=memory, rate=rate(Timed(ms).median))


# -- one step of a model ----------------------------------------------------------------------------------


class Bench:
    """A model with its trainer on generated data; nothing is written but into a temporary folder."""

    def __init__(
        self, model: str, shape: tuple[int, int, int | None], device: str, features: int, **settings: Any
    ) -> None:
        users, items, events = shape
        data = histories(users, items, n_events=events)
        split = leave_one_out(np.diff(data.offsets))
        view = training_view(data, split)  # type: ignore[arg-type]
        self.targets: TargetView = target_view(data, split, "valid")  # type: ignore[arg-type]
        entry = registry.find(model)
        layers = [Layer(Origin.default, defaults_of(TrainConfig)), *entry.layers("")]
        known = entry.known_settings()
        chosen = resolve([*layers, Layer(Origin.user, settings)], known=known, where=model)
        model_config, self.config = make_configs(entry, chosen)
        torch.manual_seed(1)
        catalog = make_catalog(data, view, {"features": features}, self.config.max_len)
        built = entry.load()(model_config, catalog).to(device)
        self.folder = tempfile.TemporaryDirectory(prefix="mmbench-")
        self.trainer = Trainer(
            built, view, lambda _: 0.0, self.config, seed=1, folder=Path(self.folder.name), device=device
        )
        self.trainer.begin()
        self.plan = self.trainer.plan_epoch()
        self.batch = next(batches_of_epoch([self.trainer], [self.plan]))
        self.device = device

    def step(self) -> None:
        """An optimiser step without a graph, on the first batch of the epoch."""
        self.trainer.learner.step(self.batch)

    def rank(self, n_users: int) -> None:
        rank(self.trainer.model, self.targets.spread(n_users), device=self.device)


def eager_and_graph(model: str, shape: tuple[int, int, int | None], device: str, features: int) -> list[Part]:
    """One fixed batch: laying it out, the step kernel by kernel, and the step as a replayed CUDA graph."""
    bench = Bench(model, shape, device, features)
    trainer, size = bench.trainer, f"{len(bench.plan.steps[0])} histories"

    def lay_out() -> None:
        next(batches_of_epoch([trainer], [bench.plan]))

    def eager() -> tuple[tuple[float, ...], int]:
        with on_own_stream(device):
            return measured(bench.step, device)

    def graph() -> tuple[tuple[float, ...], int]:
        with on_own_stream(device):
            trainer.step(bench.batch)
            return measured(lambda: trainer.step(bench.batch), device, repeats=50)

    parts = [
        attempt("step", f"{STEPS_AT_ONCE} steps", f"{model}, laid out", lambda: measured(lay_out, device)),
        attempt("step", size, f"{model}, kernel by kernel", eager),
    ]
    if trainer.use_graphs:
        parts.append(attempt("step", size, f"{model}, CUDA graph", graph))
        if trainer.progress.notes:
            parts.append(Part(part="step", size=size, variant=model, reason=trainer.progress.notes[0]))
    return parts


def kernels(model: str, shape: tuple[int, int, int | None], device: str, features: int) -> str:
    """The kernels of a step that take the most time, as a table of torch's profiler."""
    bench = Bench(model, shape, device, features)
    for _ in range(3):
        bench.step()
    kinds = [ProfilerActivity.CUDA if device.startswith("cuda") else ProfilerActivity.CPU]
    with profile(activities=kinds) as profiler:
        bench.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
    by = "self_cuda_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=by, row_limit=60, max_name_column_width=90))


# -- large catalogues -------------------------------------------------------------------------------------


def large_catalogue(device: str, *, users: int, items: int, ranked: int) -> list[Part]:
    """SASRec over a large catalogue: a step, and the ranking of some users."""
    bench = Bench("sasrec", (users, items, None), device, 0)
    size = f"{items:,} items"
    step = attempt(
        "step", size, "sasrec, 1,024 targets", lambda: measured(bench.step, device, repeats=5, warm_up=2)
    )

    def ranks() -> tuple[tuple[float, ...], int]:
        return measured(lambda: bench.rank(ranked), device, repeats=2, warm_up=1)

    ranking = attempt(
        "ranking", size, f"{ranked:,} users", ranks, lambda ms: f"{ranked / ms * 1e3:,.0f} users a second"
    )
    return [step, ranking]


def losses_over(
    n_targets: int, n_items: int, device: str, *, width: int = 64, variants: Sequence[str]
) -> list[Part]:
    """Forward and backward of the cross entropy: ours, torch's over all logits, and that compiled."""
    query = torch.randn(n_targets, width, device=device, requires_grad=True)
    table = torch.randn(n_items, width, device=device, requires_grad=True)
    target = torch.randint(1, n_items + 1, (n_targets,), device=device)

    def plain(q: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(q @ t.T, target - 1)

    def run(loss: Callable[[Tensor, Tensor], Tensor], tf32: bool) -> Callable[[], None]:
        def work() -> None:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            query.grad = table.grad = None
            loss(query, table).backward()
            torch.backends.cuda.matmul.allow_tf32 = False

        return work

    kinds: dict[str, Callable[[], None]] = {
        "ours": run(lambda q, t: cross_entropy(q, t, target), False),
        "ours, tf32": run(lambda q, t: cross_entropy(q, t, target), True),
        "torch": run(plain, False),
        "torch, tf32": run(plain, True),
    }
    if "torch, compiled, tf32" in variants:
        kinds["torch, compiled, tf32"] = run(torch.compile(plain), True)
    size = f"{n_targets:,} x {n_items:,}"
    return [
        attempt("cross entropy", size, name, lambda work=work: measured(work, device, repeats=5, warm_up=2))  # type: ignore[misc]
        for name, work in kinds.items()
        if name in variants
    ]


# -- encoders ---------------------------------------------------------------------------------------------


def encoders(device: str, *, is_small: bool) -> list[Part]:
    """BERT-base and ViT-B/16 with random weights, in the precision of `extract --precision auto`."""
    with tempfile.TemporaryDirectory(prefix="mmbench-") as name:
        folder = Path(name)
        return [_texts(folder / "bert", device, is_small), _pictures(folder / "vit", device, is_small)]


def _texts(folder: Path, device: str, is_small: bool) -> Part:
    n, length = (4, 12) if is_small else (1_024, 128)

    def work() -> tuple[tuple[float, ...], int]:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        from mmbench.features.pretrained import import_transformers
        from mmbench.features.transformers_text import TransformersText

        library = import_transformers()
        words = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])}
        tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2} if is_small else {}
        library.BertModel(library.BertConfig(**sizes)).save_pretrained(folder)
        library.BertTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
        encoder = TransformersText(
            name="bert", source=str(folder), pooling="cls", layers=False, device=device, precision="auto"
        )
        ids = [np.full(length, 5, np.int64) for _ in range(n)]
        return measured(lambda: encoder.run(ids), device, repeats=5, warm_up=2)

    size = f"{n:,} texts of {length} tokens"
    return attempt(
        "encoder",
        size,
        "BERT-base" if not is_small else "BERT, tiny",
        work,
        lambda ms: f"{n / ms * 1e3:,.0f} texts a second",
    )


def _pictures(folder: Path, device: str, is_small: bool) -> Part:
    n = 2 if is_small else 256

    def work() -> tuple[tuple[float, ...], int]:
        import json

        from mmbench.features.pretrained import import_transformers
        from mmbench.features.vision import TransformersVision

        library = import_transformers()
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2} if is_small else {}
        library.ViTModel(library.ViTConfig(**sizes)).save_pretrained(folder)
        settings = {
            "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 224, "width": 224},
            "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        encoder = TransformersVision("vit", source=str(folder), pooling="cls", device=device)
        rng = np.random.default_rng(0)
        pixels = [rng.standard_normal((3, 224, 224), dtype=np.float32) for _ in range(n)]
        return measured(lambda: encoder.run(pixels), device, repeats=5, warm_up=2)

    return attempt(
        "encoder",
        f"{n:,} pictures of 224 x 224",
        "ViT-B/16" if not is_small else "ViT, tiny",
        work,
        lambda ms: f"{n / ms * 1e3:,.0f} pictures a second",
    )
