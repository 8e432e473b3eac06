"""Rows of plain tables, streaming: TSV, CSV (gzip or plain), Parquet and RecBole's atomic files."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mmbench.data.lines import RowReader
from mmbench.data.raw import Faults, missing_name, open_raw
from mmbench.data.timestamps import iso_text
from mmbench.errors import DataError
from mmbench.explain import first_line

Row = tuple[int, list[Any]]
KINDS = {".tsv": "\t", ".csv": ",", ".inter": "\t", ".item": "\t", ".parquet": ""}


def kind_of(file: Path) -> str:
    """Return `.tsv`, `.csv`, `.parquet`, `.inter` or `.item`, ignoring `.gz`; DataError for anything else."""
    suffixes = [suffix for suffix in file.suffixes if suffix != ".gz"]
    kind = suffixes[-1].lower() if suffixes else ""
    if kind not in KINDS:
        raise DataError(f"{file}: the name must end in {', '.join(KINDS)} (text tables also with .gz)")
    return kind


def new_faults(file: Path) -> Faults:
    return Faults(file, unit="row" if kind_of(file) == ".parquet" else "line")


def read_header(file: Path) -> list[str]:
    """Return the names of a table's columns; DataError for a file that is no such table."""
    if kind_of(file) == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(file).names)
        except (pa.ArrowException, OSError) as error:
            raise _not_parquet(file, error) from error
    with open_raw(file) as stream:
        return _open_text(file, stream, new_faults(file))[0]


def read_rows(file: Path, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
    """Yield (line or row number, values of `columns`) of each row; malformed rows are added to `faults`.

    Text tables give strings exactly as written, so that an id "007" stays "007".
    """
    if kind_of(file) == ".parquet":
        return _parquet_rows(file, columns, faults)
    return _text_rows(file, columns, faults)


def _text_rows(file: Path, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
    with open_raw(file) as stream:
        header, rows = _open_text(file, stream, faults)
        indices = [_column_index(file, header, column) for column in columns]
        for number, row in rows:
            yield number, [row[index] for index in indices]


def _open_text(file: Path, stream: IO[bytes], faults: Faults) -> tuple[list[str], Iterator[Row]]:
    """Return the header of a text table and an iterator over its rows; DataError for an empty file."""
    kind = kind_of(file)
    is_recbole = kind in (".inter", ".item")
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    rows = RowReader(file, text, KINDS[kind], faults, quoting=not is_recbole).rows()
    first = next(rows, None)
    if first is None:
        raise DataError(f"{file} is empty; get the file again")
    header = _recbole_header(file, first[1]) if is_recbole else [name.strip() for name in first[1]]
    return header, rows


def _not_parquet(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} is not a readable Parquet file ({first_line(error)}); get it again")


def _recbole_header(file: Path, header: list[str]) -> list[str]:
    names = []
    for cell in header:
        name, colon, kind = cell.strip().partition(":")
        if not colon or kind not in ("token", "token_seq", "float", "float_seq"):
            raise DataError(
                f"{file}: header {cell!r} is not name:type as in RecBole's files; write user_id:token, for instance"
            )
        names.append(name)
    return names


def _column_index(file: Path, header: list[str], column: str) -> int:
    if column not in header:
        raise DataError(f"{file}: {missing_name(column, header, 'column')}")
    if header.count(column) > 1:
        raise DataError(f"{file}: column {column!r} appears twice in the header; rename either")
    return header.index(column)


def _parquet_rows(file: Path, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    unique = list(dict.fromkeys(columns))
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            for column in unique:
                _column_index(file, names, column)
            for batch in table.iter_batches(columns=unique):
                lists = {name: _values(batch.column(name)) for name in unique}
                for values in zip(*(lists[name] for name in columns), strict=True):
                    number += 1
                    faults.n_lines += 1
                    yield number, list(values)
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(file, error) from error


def _values(column: Any) -> list[Any]:
    """Return the Python values of an Arrow column; dates and times become ISO text, as in text tables."""
    import pyarrow as pa

    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        return list(column.to_pylist())
    micros = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
    return [None if value is None else iso_text(value) for value in micros]
