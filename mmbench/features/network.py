"""Runs a network encoder over all items: batches, memory, threads.

Texts are tokenised first (their token ids fit in memory), equal ones once, and sorted by length, the longest
first, so that a batch holds little padding. Pictures come in item order, decoded by a few threads ahead of the
network, never all at once. What is done is kept in a work folder (see mmbench.features.work).

A place is a number in the order in which inputs meet the network.
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

FLUSH_SECONDS = 2.0  # what a kill costs at most; a file is not written more often
TOKENS = {"cpu": 8_192, "cuda": 131_072}  # of a batch, padding included
PICTURES = {"cpu": 16, "cuda": 256}  # of a batch
MAX_TEXTS = 1_024  # of a batch, however short they are
THREADS = 4  # that decode pictures
NOTHING = "nothing to encode"  # the reason of an item whose input the encoder finds empty

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Encoded:
    """values float32 [N, ...] (zeros where absent), present [N], counted reasons and notes, facts of the run."""

    values: np.ndarray
    present: np.ndarray
    reasons: Counter[str]
    facts: dict[str, Any]


class Feed(Protocol):
    """The inputs in their order."""

    n_places: int
    unit: str  # of the batch size that is found automatically
    place_of: np.ndarray  # int64 [N], place of each item's input; -1 = it has none
    reasons: Counter[str]  # of the items without a place, and notes

    def count(self, place: int, unit: str, limit: int) -> int:
        """How many inputs from `place` on make a batch of at most `limit` units; at least 1."""
        ...

    def limit(self, place: int, unit: str, n: int) -> int:
        """The limit under which n inputs from `place` on make a batch."""
        ...

    def stream(self, place: int, ahead: int) -> Iterator[np.ndarray | str]:
        """The inputs from `place` on, each an array or the reason why there is none."""
        ...


class TextFeed:
    """Token ids of the different texts, longest first."""

    unit = "tokens"

    def __init__(self, source: TextSource, encoder: NetworkEncoder) -> None:
        found = [None if text is None else encoder.prepare(text) for text in source.read(lambda done: None)]
        self.reasons = source.reasons
        self.reasons["truncated"] += sum(one.cut for one in found if one is not None)
        self.reasons[NOTHING] += sum(one is None for one in found) - self.reasons["no text"]
        numbers: dict[bytes, int] = {}  # each different input once: equal texts get equal vectors
        owner = [
            -1 if one is None else numbers.setdefault(one.array.tobytes(), len(numbers)) for one in found
        ]
        arrays: list[np.ndarray] = [np.zeros(0)] * len(numbers)
        for one, number in zip(found, owner, strict=True):
            if one is not None:
                arrays[number] = one.array
        # Longformer pads by itself, to a multiple of its window.
        step = int(getattr(encoder, "pad_to", 1))
        lengths = np.array([-(-len(one) // step) * step for one in arrays], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        place = np.append(np.argsort(order), -1)  # the last one answers for -1
        self.place_of = place[np.array(owner, dtype=np.int64)]
        self.n_places = len(arrays)
        self._arrays, self._lengths = [arrays[number] for number in order], lengths[order]

    def count(self, place: int, unit: str, limit: int) -> int:
        fitting = limit // int(self._lengths[place]) if unit == "tokens" else limit
        return max(1, min(fitting, MAX_TEXTS if unit == "tokens" else limit, self.n_places - place))

    def limit(self, place: int, unit: str, n: int) -> int:
        return n * int(self._lengths[place]) if unit == "tokens" else n

    def stream(self, place: int, ahead: int) -> Iterator[np.ndarray | str]:
        yield from self._arrays[place:]


class PictureFeed:
    """Pictures in item order; files are read here, decoded and prepared by threads."""

    unit = "items"

    def __init__(self, source: PictureSource, encoder: NetworkEncoder) -> None:
        self._source, self._encoder = source, encoder
        self.n_places = len(source)
        self.place_of = np.arange(len(source))
        self.reasons: Counter[str] = Counter()

    def count(self, place: int, unit: str, limit: int) -> int:
        return min(limit, self.n_places - place)

    def limit(self, place: int, unit: str, n: int) -> int:
        return n

    def stream(self, place: int, ahead: int) -> Iterator[np.ndarray | str]:
        """At most `ahead` pictures are read but not yet asked for."""
        pool, queue = ThreadPoolExecutor(THREADS), deque[str | Future[np.ndarray | str]]()
        try:
            for number in range(place, self.n_places):
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
        found: Input | None = self._encoder.prepare(picture)
        return NOTHING if found is None else found.array


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
    """Encode every item of the source, going on from what the work folder holds.

    `batch_size` items a batch, or as many as fit (None). When memory runs out the batches are halved and the
    work goes on. Raises DataError when not even one input fits, or when the network gives no finite numbers.
    """
    encoder.load()
    feed: Feed = TextFeed(source, encoder) if isinstance(source, TextSource) else PictureFeed(source, encoder)
    _choose_size(feed, work, batch_size)
    resumed, began = work.done, time.perf_counter()
    if resumed:
        say(f"{encoder.modality} {encoder.name}: goes on after {resumed} of {feed.n_places} inputs")
    _Loop(encoder, feed, work, tick, say).run()
    seconds = time.perf_counter() - began
    n_items = int((feed.place_of >= resumed).sum())
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
    """A resumed run keeps the sizes of the first one, unless another was asked for by number."""
    wanted: tuple[str, int] | None = None
    if batch_size is not None:
        wanted = ("items", batch_size)
    elif not work.sizes.changes:
        wanted = (feed.unit, (TOKENS if feed.unit == "tokens" else PICTURES)[work.device])
    if wanted is not None and not (work.sizes.changes and work.sizes.at(work.done) == wanted):
        work.sizes.change(work.done, *wanted)
        work.save_sizes()


class _Loop:
    """Batch after batch, from the first place that is not stored to the last."""

    def __init__(self, encoder: NetworkEncoder, feed: Feed, work: Work, tick: Tick, say: Say) -> None:
        self.encoder, self.feed, self.work, self.say, self.tick = encoder, feed, work, say, tick
        self.place = work.done  # of the next input; those between work.done and it wait in `states`
        self.states: list[np.ndarray] = []
        self.absent: dict[int, str] = {}
        self.items_before = np.searchsorted(np.sort(feed.place_of), np.arange(feed.n_places + 1))

    def run(self) -> None:
        unit, limit = self.work.sizes.at(self.place)
        stream = self.feed.stream(self.place, ahead=2 * limit if unit == "items" else 0)
        waiting: list[np.ndarray | str] = []
        flushed = time.perf_counter()
        while self.place < self.feed.n_places:
            n = self.feed.count(self.place, *self.work.sizes.at(self.place))
            waiting += [next(stream) for _ in range(n - len(waiting))]
            if not self._batch(waiting[:n]):
                continue  # in smaller batches
            del waiting[:n]
            self.tick(int(self.items_before[self.place]))
            if time.perf_counter() - flushed >= FLUSH_SECONDS:
                self._flush()
                flushed = time.perf_counter()
        self._flush()

    def _flush(self) -> None:
        if self.place > self.work.done:
            self.work.add(self.states, self.absent, self.place - self.work.done)
            self.states, self.absent = [], {}

    def _batch(self, inputs: Sequence[np.ndarray | str]) -> bool:
        """Run the next inputs; False = they did not fit, and batches are smaller from here on."""
        arrays = [one for one in inputs if not isinstance(one, str)]
        states, too_large = None, ""
        try:
            states = self._run(arrays) if arrays else None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            too_large = " ".join(str(error).split())[:120] or "MemoryError"
        if too_large:  # outside the handler, whose traceback holds the batch's memory
            self._halve(len(inputs), too_large)
            return False
        if states is not None:
            self.states.append(states)
        self.absent |= {self.place + k: one for k, one in enumerate(inputs) if isinstance(one, str)}
        self.place += len(inputs)
        return True

    def _run(self, arrays: list[np.ndarray]) -> np.ndarray:
        states = np.asarray(self.encoder.run(arrays), dtype=np.float32)
        if len(states) != len(arrays) or states.ndim not in (2, 3):
            raise DataError(f"{self.encoder.name} gave {list(states.shape)} for {len(arrays)} inputs")
        if not np.isfinite(states).all():
            raise DataError(
                f"{self.encoder.name} gave numbers that are not finite; extract with --precision float32"
            )
        return states

    def _halve(self, n: int, reason: str) -> None:
        name = f"{self.encoder.modality} {self.encoder.name}"
        if n == 1:
            raise DataError(
                f"{name}: one input alone needs more memory than there is ({reason}); "
                "close other programs, or choose another --device or a smaller encoder"
            )
        self.say(f"{name}: out of memory with {n} in a batch; going on with {n // 2}")
        unit, _ = self.work.sizes.at(self.place)
        self.work.sizes.change(self.place, unit, self.feed.limit(self.place, unit, n // 2))
        self.work.save_sizes()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """Whether an error says so: torch has a class for GPUs, but a plain RuntimeError on the CPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, MemoryError) or any(one in str(error).lower() for one in words)


def _assemble(feed: Feed, work: Work) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """All states in item order: values [N, ...], present [N], reasons."""
    n_items, reasons = len(feed.place_of), Counter(feed.reasons)
    values, present = np.zeros((n_items, 0), np.float32), np.zeros(n_items, bool)
    for places, states, there, why in work.parts():
        if states.size and not values.size:
            values = np.zeros((n_items, *states.shape[1:]), np.float32)
        row = np.where(there, np.cumsum(there) - 1, -1)
        items = np.flatnonzero((feed.place_of >= places.start) & (feed.place_of < places.stop))
        rows = row[feed.place_of[items] - places.start]
        items, rows = items[rows >= 0], rows[rows >= 0]
        values[items], present[items] = states[rows], True
        reasons.update(why)
    return values, present, reasons
