"""Run a network encoder over all items: batches, memory, threads.

Texts are tokenised first (their token ids fit in memory), each different text once, and sorted by length, the longest
first, so that a batch has little padding. Pictures come in item order, decoded by a few threads ahead of the
network, never all at once. Finished work is kept in a work folder (see mmbench.features.work).

A position is an input's number in the order in which the network sees the inputs.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mmbench.data.decoding import decode
from mmbench.errors import DataError
from mmbench.features.encoders import Input, NetworkEncoder
from mmbench.features.sources import PictureSource, TextSource
from mmbench.features.work import Say, Work

FLUSH_SECONDS = 2.0  # a kill loses at most this much work; files are not written more often
TOKENS = {"cpu": 8_192, "cuda": 131_072}  # limits a batch, padding included
PICTURES = {"cpu": 16, "cuda": 256}  # limits a batch
MAX_TEXTS = 1_024  # limits a batch, however short its texts are
THREADS = 4  # decode pictures
NOTHING = "nothing to encode"  # the reason for an item whose input the encoder finds empty

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Encoded:
    """values float32 [N, ...] (zeros if absent), present [N], counted reasons and notes, facts of the run."""

    values: np.ndarray
    present: np.ndarray
    reasons: Counter[str]
    facts: dict[str, Any]


class Feed(Protocol):
    """The inputs of a network, in order."""

    n_inputs: int
    unit: str  # the unit of the batch size that is chosen automatically
    position_of: np.ndarray  # int64 [N], position of each item's input; -1 = it has none
    reasons: Counter[str]  # why items have no position, and notes

    def count(self, position: int, unit: str, limit: int) -> int:
        """Return how many inputs from `position` on make a batch of at most `limit` units; at least 1."""
        ...

    def limit(self, position: int, unit: str, n: int) -> int:
        """Return the limit under which n inputs from `position` on make a batch."""
        ...

    def stream(self, position: int, ahead: int) -> Iterator[np.ndarray | str]:
        """Yield the inputs from `position` on, each an array or the reason why there is none."""
        ...


class TextFeed:
    """Token ids of the different texts, the longest first."""

    unit = "tokens"

    def __init__(self, source: TextSource, encoder: NetworkEncoder) -> None:
        inputs = [None if text is None else encoder.prepare(text) for text in source.read(lambda done: None)]
        self.reasons = source.reasons
        self.reasons["truncated"] += sum(tokens.cut for tokens in inputs if tokens is not None)
        self.reasons[NOTHING] += sum(tokens is None for tokens in inputs) - self.reasons["no text"]
        numbers: dict[bytes, int] = {}  # holds each different input once: equal texts get equal vectors
        number_of = [
            -1 if tokens is None else numbers.setdefault(tokens.array.tobytes(), len(numbers))
            for tokens in inputs
        ]
        arrays: list[np.ndarray] = [np.zeros(0)] * len(numbers)
        for tokens, number in zip(inputs, number_of, strict=True):
            if tokens is not None:
                arrays[number] = tokens.array
        # Longformer pads its input to a multiple of its window.
        step = int(getattr(encoder, "pad_to", 1))
        lengths = np.array([-(-len(array) // step) * step for array in arrays], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        position = np.append(np.argsort(order), -1)  # the last entry maps -1 to -1
        self.position_of = position[np.array(number_of, dtype=np.int64)]
        self.n_inputs = len(arrays)
        self._arrays, self._lengths = [arrays[number] for number in order], lengths[order]

    def count(self, position: int, unit: str, limit: int) -> int:
        fitting = limit // int(self._lengths[position]) if unit == "tokens" else limit
        return max(1, min(fitting, MAX_TEXTS if unit == "tokens" else limit, self.n_inputs - position))

    def limit(self, position: int, unit: str, n: int) -> int:
        return n * int(self._lengths[position]) if unit == "tokens" else n

    def stream(self, position: int, ahead: int) -> Iterator[np.ndarray | str]:
        yield from self._arrays[position:]


class PictureFeed:
    """Pictures in item order. The files are read here; threads decode and prepare them."""

    unit = "items"

    def __init__(self, source: PictureSource, encoder: NetworkEncoder) -> None:
        self._source, self._encoder = source, encoder
        self.n_inputs = len(source)
        self.position_of = np.arange(len(source))
        self.reasons: Counter[str] = Counter()

    def count(self, position: int, unit: str, limit: int) -> int:
        return min(limit, self.n_inputs - position)

    def limit(self, position: int, unit: str, n: int) -> int:
        return n

    def stream(self, position: int, ahead: int) -> Iterator[np.ndarray | str]:
        """Yield pictures, reading at most `ahead` of them in advance."""
        pool, queue = ThreadPoolExecutor(THREADS), deque[str | Future[np.ndarray | str]]()
        try:
            for number in range(position, self.n_inputs):
                content = self._source.content(number)
                queue.append(content if isinstance(content, str) else pool.submit(self._prepare, content))
                if len(queue) > ahead:
                    yield _result(queue.popleft())
            while queue:
                yield _result(queue.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, content: bytes) -> np.ndarray | str:
        picture = decode(content)
        if isinstance(picture, str):
            return picture
        prepared: Input | None = self._encoder.prepare(picture)
        return NOTHING if prepared is None else prepared.array


def _result(waiting: "str | Future[np.ndarray | str]") -> np.ndarray | str:
    return waiting if isinstance(waiting, str) else waiting.result()


def encode_all(
    encoder: NetworkEncoder,
    source: TextSource | PictureSource,
    work: Work,
    *,
    batch_size: int | None = None,
    tick: Tick,
    say: Say,
) -> Encoded:
    """Encode every item of the source, resuming from the work folder.

    A batch has `batch_size` items, or as many as fit (None). When memory runs out, batches are halved and the work
    continues. Raises DataError when not even a single input fits, or when the network's output is not finite.
    """
    encoder.load()
    feed: Feed = TextFeed(source, encoder) if isinstance(source, TextSource) else PictureFeed(source, encoder)
    _choose_size(feed, work, batch_size)
    resumed, began = work.done, time.perf_counter()
    if resumed:
        say(f"{encoder.modality} {encoder.name}: resumes after {resumed} of {feed.n_inputs} inputs")
    _Loop(encoder, feed, work, tick, say).run()
    seconds = time.perf_counter() - began
    n_items = int((feed.position_of >= resumed).sum())
    facts = {
        "device": work.device,
        "batches": [
            {"from": start, "at most": limit, "unit": unit} for start, unit, limit in work.sizes.changes
        ],
        "seconds": seconds,
        "items_per_second": n_items / seconds if n_items and seconds else 0.0,
        "resumed_after": resumed,
    }
    values, present, reasons = _assemble(feed, work)
    if isinstance(source, PictureSource):
        reasons["duplicate"] = source.duplicates(present)
    return Encoded(values, present, +reasons, facts)


def _choose_size(feed: Feed, work: Work, batch_size: int | None) -> None:
    """Set the batch size: a resumed run keeps the sizes of the first, unless a number was given."""
    wanted: tuple[str, int] | None = None
    if batch_size is not None:
        wanted = ("items", batch_size)
    elif not work.sizes.changes:
        wanted = (feed.unit, (TOKENS if feed.unit == "tokens" else PICTURES)[work.device])
    if wanted is not None and not (work.sizes.changes and work.sizes.size_at(work.done) == wanted):
        work.sizes.change(work.done, *wanted)
        work.save_sizes()


class _Loop:
    """Runs batch after batch, from the first position that is not stored to the last."""

    def __init__(self, encoder: NetworkEncoder, feed: Feed, work: Work, tick: Tick, say: Say) -> None:
        self.encoder, self.feed, self.work, self.say, self.tick = encoder, feed, work, say, tick
        self.position = work.done  # is of the next input; the inputs from work.done up to it wait in `states`
        self.states: list[np.ndarray] = []
        self.absent: dict[int, str] = {}
        self.items_before = np.searchsorted(np.sort(feed.position_of), np.arange(feed.n_inputs + 1))

    def run(self) -> None:
        unit, limit = self.work.sizes.size_at(self.position)
        stream = self.feed.stream(self.position, ahead=2 * limit if unit == "items" else 0)
        waiting: list[np.ndarray | str] = []
        flushed = time.perf_counter()
        while self.position < self.feed.n_inputs:
            n = self.feed.count(self.position, *self.work.sizes.size_at(self.position))
            waiting += [next(stream) for _ in range(n - len(waiting))]
            if not self._batch(waiting[:n]):
                continue  # with smaller batches
            del waiting[:n]
            self.tick(int(self.items_before[self.position]))
            if time.perf_counter() - flushed >= FLUSH_SECONDS:
                self._flush()
                flushed = time.perf_counter()
        self._flush()

    def _flush(self) -> None:
        if self.position > self.work.done:
            self.work.add(self.states, self.absent, self.position - self.work.done)
            self.states, self.absent = [], {}

    def _batch(self, inputs: Sequence[np.ndarray | str]) -> bool:
        """Run the next inputs; False if they did not fit, and batches are smaller from here on."""
        arrays = [value for value in inputs if not isinstance(value, str)]
        states, too_large = None, ""
        try:
            states = self._run(arrays) if arrays else None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            too_large = " ".join(str(error).split())[:120] or "MemoryError"
        if too_large:  # handled after the except block, whose traceback keeps the batch's memory alive
            self._halve(len(inputs), too_large)
            return False
        if states is not None:
            self.states.append(states)
        self.absent |= {self.position + k: value for k, value in enumerate(inputs) if isinstance(value, str)}
        self.position += len(inputs)
        return True

    def _run(self, arrays: list[np.ndarray]) -> np.ndarray:
        states = np.asarray(self.encoder.run(arrays), dtype=np.float32)
        if len(states) != len(arrays) or states.ndim not in (2, 3):
            raise DataError(f"{self.encoder.name} returned {list(states.shape)} for {len(arrays)} inputs")
        if not np.isfinite(states).all():
            raise DataError(
                f"{self.encoder.name} returned numbers that are not finite; extract with --precision float32"
            )
        return states

    def _halve(self, n: int, reason: str) -> None:
        name = f"{self.encoder.modality} {self.encoder.name}"
        if n == 1:
            raise DataError(
                f"{name}: out of memory with a single input ({reason}); "
                "close other programs, or choose another --device or a smaller encoder"
            )
        self.say(f"{name}: out of memory with {n} in a batch; continuing with {n // 2}")
        unit, _ = self.work.sizes.size_at(self.position)
        self.work.sizes.change(self.position, unit, self.feed.limit(self.position, unit, n // 2))
        self.work.save_sizes()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; torch has an error class for GPUs, but a plain RuntimeError on the CPU."""
    phrases = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in phrases)


def _assemble(feed: Feed, work: Work) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Return all states in item order: values [N, ...], present [N], reasons."""
    n_items, reasons = len(feed.position_of), Counter(feed.reasons)
    values, present = np.zeros((n_items, 0), np.float32), np.zeros(n_items, bool)
    for positions, states, is_present, why in work.parts():
        if states.size and not values.size:
            values = np.zeros((n_items, *states.shape[1:]), np.float32)
        row = np.where(is_present, np.cumsum(is_present) - 1, -1)
        items = np.flatnonzero((feed.position_of >= positions.start) & (feed.position_of < positions.stop))
        rows = row[feed.position_of[items] - positions.start]
        items, rows = items[rows >= 0], rows[rows >= 0]
        values[items], present[items] = states[rows], True
        reasons.update(why)
    return values, present, reasons
