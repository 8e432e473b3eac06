"""Golden numbers: what every registered model and variant computes on fixed data, in float64.

    python -m tests.golden                  print which numbers differ from tests/golden.json
    python -m tests.golden --write [NAME]   write them anew, of all models or of the named ones

A number that moves means that a model has changed. If the change is intended, write the file anew and name the change
in CHANGELOG.md.

    initial    of each top-level module: number of parameters, then means and deviations of its initial tensors
    loss       each term of a training step, dropout on
    gradient   the norm of all gradients, then a checksum of each top-level module
    ... of STAGE   the same in an earlier stage in which the model masks its samples by itself
    scores     a checksum for each of a few histories

Nothing here comes from torch's generators: weights, features, dropout, masks and samples are numbers of
`tests.fixed`, so a dropout that is missing or misplaced moves a number.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  # its BLAS is limited to one thread only where it is loaded
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import plan_rows
from mmbench.data.views import TrainView
from mmbench.models import registry
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import SHARED, Negatives, Prefixes, SharedNegatives
from tests.fixed import draws_replaced, fill, signed, uniform, words
from tests.models.toy import DAY, START, catalog_of, history_batch, toy_model, view_of

FILE = Path(__file__).with_suffix(".json")
N_ITEMS, MAX_LEN = 20, 8
HISTORIES = [  # item 20 never occurs in training
    [5],
    [3, 9],
    [7, 1, 12],
    [2, 2, 14, 6],
    [11, 4, 8, 3, 17],
    [9, 16, 1, 5, 13, 10, 2],
    [18, 3, 7, 19, 6, 12, 4, 1, 15],
    [8, 14, 11, 2, 5, 17, 9, 3, 12, 6],
    [1, 13, 4, 16, 7, 10, 18, 2, 9, 5, 11, 3, 14, 8],
    [15, 6, 19, 1, 8, 12, 17, 4, 13, 2, 10, 7, 5, 16, 3, 9],
    [4, 10, 18, 14, 3, 8, 1, 11, 6, 19, 13, 9, 2, 15],
    [6, 2, 17, 10, 19, 4, 7, 15, 1, 18, 12, 3, 8, 16, 5],
    [13, 3, 6, 9, 12, 15, 18, 1, 4, 7, 10, 13, 16, 19, 2, 5],
]
# Seconds between events, two of them 0.
GAPS = [3_600, 86_461, 0, 47, 2_592_013, 604_800, 1, 7_777_777, 172_805, 20_011, 1_209_611, 0, 333_333]  # fmt: skip
RANKED = [[4], [1, 2, 3], [9, 8, 7, 6, 5, 4, 3, 13, 2, 20], [20, 16], [5, 5, 5, 1]]  # longest: beyond max_len
LONGEST_GAP = 400 * DAY  # longer than any in training

# Widths of the recipes -> narrow ones that keep apart what is not of equal width. Text has 12 dims, images have 8.
WIDTHS = {50: 10, 64: 12, 100: 14, 128: 18, 256: 20, 300: 22, 384: 54, 512: 26, 768: 12, 1024: 28}
WIDTH_SETTINGS = ("hidden_dim", "emb_dim", "inner_dim", "state_dim")
COUNTS = {"n_samples": 40, "n_blocks": 2}  # with more blocks, NextItNet's last ReLU meets no negative number
# Where a recipe has a value that hides, on so little data, whether it is used at all: that value, another one.
NEUTRAL = {
    "category_weight": (1.0, 0.7), "idcl_weight": (1.0, 0.6), "pcl_weight": (1.0, 0.9), "temperature": (1.0, 0.7),
    "score_reg": (1.0, 0.8), "elu_param": (0.0, 0.5), "feature_scale": (1.0, 1.3), "l2_emb": (0.0, 0.01),
    "reg_weight": (0.0, 0.05), "content_reg_weight": (0.0, 0.04),
    "dropout": (0.0, 0.3), "hidden_dropout": (0.0, 0.25), "tie_dropout": (0.0, 0.15),
    "pop_weight": (0.0, 0.05), "last_only": (0.1, 0.4), "uniform_share": (0.15, 0.3),
    "window_days": (7.0, 60.0), "solve_precision": ("float32", "float64"),
}  # fmt: skip
# Setting -> another and its value, with which it has no meaning.
RULED_OUT = {"content_reg_weight": ("reg", "mmrec")}
LATE = 100  # an epoch in which no warm-up switches a term off any more
# Numbers that rest on float32, and so on the processor in the seventh digit: times, and the inverse of a member.
SINGLE_PRECISION: dict[
    str, dict[str, float]
] = {  # name of the model -> start of the path -> relative tolerance
    "hm4sr:as-released": {"gradient total norm": 1e-5, "gradient time": 1e-5},
    "ease-text": {"scores": 1e-4},
    "ease-text:image": {"scores": 1e-4},
}

Numbers = dict[str, Any]  # "loss", "gradient", ... -> name -> number or numbers


# -- data --------------------------------------------------------------------------------------------------------


def times_of(history: Sequence[int], user: int) -> list[int]:
    gaps = [GAPS[(5 * user + k) % len(GAPS)] for k in range(len(history))]
    return (START + 40 * DAY * user + np.cumsum(gaps)).tolist()


@cache
def training_view() -> TrainView:
    return view_of(HISTORIES, [times_of(history, user) for user, history in enumerate(HISTORIES)])


@cache
def catalog() -> Catalog:
    """Return the catalogue of the training events, with features in float64."""
    with draws_replaced():
        drawn = catalog_of(training_view(), n_items=N_ITEMS, max_len=MAX_LEN)
    assert drawn.text_feat is not None
    assert drawn.image_feat is not None
    return replace(drawn, text_feat=drawn.text_feat.double(), image_feat=drawn.image_feat.double())


def training_step(model: Recommender[Any], samples: str) -> TrainBatch:
    """Return all rows of an epoch as one step, with fixed negatives."""
    view, needs = training_view(), model.needs
    layout = "padded" if needs.layout == "packed" else needs.layout
    batcher = Batcher(view.items, view.times, layout=layout, max_len=model.max_len)
    kind = needs.samples[0] if samples == "default" else samples
    batch = batcher.training(plan_rows(view.offsets, kind, model.max_len), prefixes=needs.has(Prefixes))
    if needs.layout == "packed":
        batch = side_by_side(batch)
    shared, negatives = needs.get(SharedNegatives), needs.get(Negatives)
    if shared is not None:
        batch = batch.with_drawn(**{SHARED: fixed_items(SHARED, shared.k)})
    if negatives is not None:
        n_targets = len(batch.user)
        items = fixed_items("negatives", n_targets * negatives.k).view(n_targets, negatives.k)
        batch = batch.with_drawn(negatives=items)
    return batch


def fixed_items(text: str, n: int) -> Tensor:
    """Return n items of 1..N_ITEMS, int64 [n]."""
    return torch.from_numpy((words(text, n) % np.uint64(N_ITEMS)).astype(np.int64) + 1)


def side_by_side(batch: TrainBatch) -> TrainBatch:
    """Put each two histories into one row, so that no number depends on how the engine packs its rows.

    Two rows that become one keep their order in memory, and so places in the flat rows stay what they are.
    """

    def in_pairs(grid: Tensor) -> Tensor:
        return F.pad(grid, (0, 0, 0, len(grid) % 2)).view(-1, 2 * grid.shape[1])

    def numbered(segment: Tensor) -> Tensor:
        return in_pairs(segment * (1 + torch.arange(len(segment)) % 2)[:, None])

    grids: dict[str, Any] = {
        name: in_pairs(getattr(batch, name)) for name in ("item_seq", "time_seq", "position")
    }
    if batch.prefix_rows is not None:
        source, segment = in_pairs(batch.prefix_rows.source), numbered(batch.prefix_rows.segment)
        grids["prefix_rows"] = replace(batch.prefix_rows, source=source, segment=segment)
    return replace(batch, **grids, segment=numbered(batch.segment))


def ranked_histories(model: Recommender[Any]) -> Batch:
    times = [times_of(history, user) for user, history in enumerate(RANKED)]
    times[-1][-1] += LONGEST_GAP
    return history_batch(model, RANKED, times=times)


# -- models ------------------------------------------------------------------------------------------------------


def settings_of(name: str) -> dict[str, Any]:
    """Return the recipe's settings, the training's too."""
    entry = registry.find(name)
    values: dict[str, Any] = {}
    for layer in entry.layers("golden"):
        values.update(layer.values)
    return values


def narrow(width: int) -> int:
    if width not in WIDTHS:
        raise ValueError(f"tests/golden.py: a recipe has the width {width}; give it a narrow one in WIDTHS")
    return WIDTHS[width]


def changed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return narrow widths, small counts, and other values for those that would hide whether they are used."""
    changed = {key: narrow(settings[key]) for key in WIDTH_SETTINGS if key in settings}
    for key, (neutral, other) in NEUTRAL.items():
        switch, value = RULED_OUT.get(key, ("", None))
        if settings.get(key) == neutral and (not switch or settings.get(switch) != value):
            changed[key] = other
    return changed | {key: count for key, count in COUNTS.items() if key in settings}


@contextmanager
def single_thread() -> Iterator[None]:
    """Keep torch and the BLAS of numpy and scipy to one thread.

    With more, such small models take several times as long, and a solution in float32 has other last digits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@single_thread()
def measure(name: str) -> Numbers:
    """Return the numbers of a model, which is built once."""
    settings = settings_of(name)
    with draws_replaced():
        model = toy_model(name, catalog(), **changed_settings(settings))
    numbers: Numbers = {}
    if model.trainable:
        numbers["initial"] = initial_weights(model)
        fill(model.double())
        for stage in model.stages:
            if stage.samples == "sequence-prefix":  # the model is another one there
                model.start_stage(stage.name)
                for kind, values in step_numbers(model, stage.samples).items():
                    numbers[f"{kind} of {stage.name}"] = values
                model.start_stage(model.stages[-1].name)
        numbers |= step_numbers(model, settings.get("samples", "default"))
    numbers["scores"] = score_numbers(model)
    return numbers


def step_numbers(model: Recommender[Any], samples: str) -> Numbers:
    """Return the loss terms of a training step, and what its gradients sum to."""
    model.zero_grad()
    batch = training_step(model, samples)
    with draws_replaced():
        model.start_epoch(LATE)
        terms = model.train().loss(batch)
    torch.stack(list(terms.values())).sum().backward()
    loss = {term: value.item() for term, value in terms.items()}
    return {"loss": loss, "gradient": gradient_numbers(model)}


# -- numbers -----------------------------------------------------------------------------------------------------


def top_modules(model: nn.Module) -> dict[str, list[tuple[str, Tensor]]]:
    """Return the parameters of each top-level module, with their full names."""
    modules = defaultdict(list)
    for name, parameter in model.named_parameters():
        modules[name.partition(".")[0]].append((name, parameter))
    return modules


def initial_weights(model: nn.Module) -> dict[str, list[float]]:
    """Return the number of weights, the sum of their tensors' means and that of their standard deviations.

    Values and deviations are weighted by fixed numbers in 1 .. 2, so that two of them cannot change places unseen.
    """
    numbers = {}
    for module, parameters in top_modules(model).items():
        n_weights, mean, deviation = 0, 0.0, 0.0
        for name, parameter in parameters:
            wide = parameter.detach().double()
            n_weights += wide.numel()
            mean += (wide * (1 + uniform(name, wide.shape))).mean().item()
            deviation += (wide.std(correction=0) * (1 + uniform(name, (1,)))).item()
        numbers[module] = [float(n_weights), mean, deviation]
    return numbers


def gradient_numbers(model: nn.Module) -> dict[str, float]:
    """Return the norm, and for each module the sum over its tensors of asinh(1000 * weighted sum of gradients).

    The gradient of a phase is proportional to unix seconds, 1e9 times the others: in a plain sum it would hide them.
    """
    numbers, square = {}, 0.0
    for module, parameters in top_modules(model).items():
        numbers[module] = 0.0
        for name, parameter in parameters:
            if parameter.grad is not None:
                square += parameter.grad.square().sum().item()
                checksum = (parameter.grad * signed(f"gradient of {name}", parameter.shape)).sum().item()
                numbers[module] += math.asinh(1000 * checksum)
    return {"total norm": square**0.5, **numbers}


def score_numbers(model: Recommender[Any]) -> list[float]:
    """Return a weighted sum of the scores of all items for each history."""
    with torch.no_grad():
        scores = model.eval().score(ranked_histories(model)).double()
    return (scores * signed("scores", scores.shape)).sum(1).tolist()


# -- comparison and file -----------------------------------------------------------------------------------------


def flat(numbers: Any, path: str = "") -> dict[str, float]:
    """Return every number under its path, as "loss ce" or "scores 2"."""
    if isinstance(numbers, float | int):
        return {path: float(numbers)}
    parts = numbers.items() if isinstance(numbers, dict) else enumerate(numbers)
    return {key: value for name, part in parts for key, value in flat(part, f"{path} {name}".strip()).items()}


def tolerance(name: str, path: str) -> float:
    """Return the relative tolerance; initial weights are in float32."""
    for start, single in SINGLE_PRECISION.get(name, {}).items():
        if path.startswith(start):
            return single
    return 1e-6 if path.startswith("initial") else 1e-9


def differences(name: str, numbers: Numbers, golden: Numbers) -> list[str]:
    """Return a line for each number that moved, is new or is gone."""
    now, before, lines = flat(numbers), flat(golden), []
    for path in dict.fromkeys([*now, *before]):  # causes first: initial weights, loss, gradient
        new, old = now.get(path), before.get(path)
        if new is None or old is None:
            lines.append(f"{path}: {'is gone' if new is None else f'{new:.12g} is new'}")
        elif not math.isclose(new, old, rel_tol=tolerance(name, path), abs_tol=1e-11):
            lines.append(f"{path}: {new:.12g}, golden {old:.12g}")
    return lines


def read() -> dict[str, Numbers]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def write(golden: Mapping[str, Numbers]) -> None:
    """Write one entry per name, sorted, with one line per kind of number."""
    entries = []
    for name in sorted(golden):
        lines = [f"    {json.dumps(kind)}: {_dump(golden[name][kind])}" for kind in sorted(golden[name])]
        entries.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    FILE.write_text("{\n" + ",\n".join(entries) + "\n}\n")


def _dump(value: Any) -> str:
    """Return JSON with sorted keys and twelve significant digits."""
    if isinstance(value, float):
        return json.dumps(float(f"{value:.12g}"))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_dump(value[key])}" for key in sorted(value)) + "}"
    return "[" + ", ".join(_dump(part) for part in value) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden", description="Golden numbers of all models."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; all of them if none is named")
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name} anew")
    options = parser.parse_args()
    golden, known = read(), registry.all_names()
    measured = {name: measure(name) for name in options.names or known}
    for name, numbers in measured.items():
        for line in differences(name, numbers, golden.get(name, {})):
            print(f"{name}: {line}")
    if options.write:
        write({name: numbers for name, numbers in {**golden, **measured}.items() if name in known})


if __name__ == "__main__":
    main()
