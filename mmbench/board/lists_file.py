"""Files of another program's lists: CSV, TSV or Parquet with columns user, item, score or user, rank; read strictly."""

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data.raw import open_raw, parse_id
from mmbench.data.tables import KINDS, kind_of, new_faults, read_rows
from mmbench.errors import DataError, suggest
from mmbench.explain import first_line
from mmbench.visible import one_line

LISTS, RANKS = ("user", "item", "score"), ("user", "rank")


@dataclass(frozen=True)
class RowsOfLists:
    """Entries of lists in file order; user int64 [R] from 0, item int64 [R] from 1, score float64 [R], finite."""

    user: np.ndarray
    item: np.ndarray
    score: np.ndarray


def read_columns(file: Path) -> tuple[str, ...]:
    """Return LISTS or RANKS, whichever the file has; DataError for other columns."""
    if not file.is_file():
        raise DataError(f"{file} does not exist; give a file of lists with the columns {','.join(LISTS)}")
    names = _header(file)
    for columns in (LISTS, RANKS):
        if set(columns) <= set(names):
            return columns
    raise DataError(
        f"{file} has the columns {one_line(','.join(names))[:120]}; it needs {','.join(LISTS)} or {','.join(RANKS)}"
    )


def _header(file: Path) -> list[str]:
    kind = kind_of(file)
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(file).names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{file} is not a readable Parquet file ({first_line(error)}); write it again"
            ) from error
    with open_raw(file) as stream:
        line = stream.readline(2**16).decode("utf-8-sig", errors="replace")
    return [name.strip().strip('"') for name in line.strip().split(KINDS[kind])]


def read_lists(file: Path, users: Mapping[str, int], items: Mapping[str, int]) -> RowsOfLists:
    """Return the entries; DataError names the first line with an unknown user or item, no score, or a repeated item."""
    columns = array("q"), array("q"), array("d")
    for line, (user, item, score) in _rows(file, LISTS):
        columns[0].append(_number(user, users, "user", file, line))
        columns[1].append(_number(item, items, "item", file, line))
        columns[2].append(_score(score, file, line))
    user, item = (np.frombuffer(column, dtype=np.int64).copy() for column in columns[:2])
    pairs = user * (len(items) + 1) + item
    order = np.argsort(pairs, kind="stable")
    twice = np.flatnonzero(pairs[order][1:] == pairs[order][:-1])
    if len(twice):
        row = int(order[twice + 1].min())
        raise DataError(
            f"{file}: entry {row + 1} names an item that the list of its user has already; list each item once"
        )
    return RowsOfLists(user, item, np.frombuffer(columns[2], dtype=np.float64).copy())


def read_ranks(file: Path, users: Mapping[str, int], n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return users (from 0) and the ranks of their targets, int64; DataError for a rank outside 1..n_items."""
    user, rank = array("q"), array("q")
    for line, (name, value) in _rows(file, RANKS):
        user.append(_number(name, users, "user", file, line))
        rank.append(_rank(value, n_items, file, line))
    numbers = np.frombuffer(user, dtype=np.int64).copy()
    if len(np.unique(numbers)) < len(numbers):
        raise DataError(f"{file}: a user has two ranks; give the rank of the test target once")
    return numbers, np.frombuffer(rank, dtype=np.int64).copy()


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[Any]]]:
    faults = new_faults(file)
    number = 0
    for line, values in read_rows(file, columns, faults):
        if faults.count:
            break
        number += 1
        yield line, values
    if faults.count:
        raise DataError(f"{file}: {'; '.join(faults.shown)}; write every row with all its columns")
    if not number:
        raise DataError(f"{file} holds no list")


def _number(value: Any, known: Mapping[str, int], what: str, file: Path, line: int) -> int:
    try:
        name = parse_id(value, what)
    except ValueError as error:
        raise DataError(f"{file}, line {line}: {error}") from error
    if name not in known:
        near = suggest(name, list(known)[:2000], what=what) if len(name) < 200 else f"unknown {what}"
        shown = near if "did you mean" in near else f"unknown {what} {name[:60]!r}"
        raise DataError(f"{file}, line {line}: {shown} (ids are those of the raw data)")
    return known[name]


def _score(value: Any, file: Path, line: int) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{file}, line {line}: score {one_line(str(value))[:40]!r} is not finite")
    return score


def _rank(value: Any, n_items: int, file: Path, line: int) -> int:
    text = str(value).strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
    if not 1 <= number <= n_items:
        raise DataError(f"{file}, line {line}: rank {one_line(text)[:40]!r} is none of 1..{n_items}")
    return number
