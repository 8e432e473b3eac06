"""datasets.toml -> DatasetSpec. The tables are checked strictly; no raw file is opened.

Files are read in this order: the catalogue that ships with mmbench, `<data-dir>/datasets.toml` (written by
`mmbench datasets add`), and the files that `MMBENCH_DATASETS` (or `--datasets`) names; then the tables of installed
packages.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmbench import plugins
from mmbench.atomic import write_text
from mmbench.data.protocol import PreparedName, Protocol, build_protocol
from mmbench.data.spec import INJECTED, DatasetSpec
from mmbench.errors import UsageError, suggest
from mmbench.explain import read_toml
from mmbench.faults import explained
from mmbench.paths import datasets_file, split_paths

ADDED = "datasets.toml"  # lies in the data folder and holds the tables that `mmbench datasets add` copied


def catalog_files(data_dir: Path) -> list[Path]:
    """Return the catalogue files that exist or were named, in reading order."""
    added = data_dir / ADDED
    named = split_paths(os.environ.get("MMBENCH_DATASETS", ""))
    return [datasets_file(), *([added] if added.is_file() else []), *named]


def load_catalog(data_dir: Path) -> dict[str, DatasetSpec]:
    """Return all data sets by name; UsageError names file, table and key of the first fault."""
    files = _read_files(data_dir)
    return {**{name: spec for name, (spec, _) in files.items()}, **_plugged_beside(files).members}


def plugged(data_dir: Path) -> plugins.Plugged[DatasetSpec]:
    """Return the data sets of installed packages, and what of theirs is left out."""
    return _plugged_beside(_read_files(data_dir))


def _plugged_beside(files: Mapping[str, tuple[DatasetSpec, Path]]) -> plugins.Plugged[DatasetSpec]:
    """Return the data sets of installed packages beside those of files, whose names are taken."""
    known = {name: str(file) for name, (_, file) in files.items()}
    return plugins.merge("datasets", "data set", _tables_of, known)


def _tables_of(plugin: plugins.Plugin) -> dict[str, DatasetSpec]:
    """Return the data sets of the tables in the folder of an installed package."""
    files = sorted(plugin.folder().glob("*.toml"))
    if not files:
        raise UsageError(f"{plugin.folder()} holds no table (*.toml); see docs/plugins.md")
    return {name: spec for file in files for name, spec in read_catalog(file, plugin).items()}


def _read_files(data_dir: Path) -> dict[str, tuple[DatasetSpec, Path]]:
    """Return the data sets of all catalogue files by name, each with its file."""
    specs: dict[str, DatasetSpec] = {}
    origin: dict[str, Path] = {}
    for file in catalog_files(data_dir):
        for name, spec in read_catalog(file).items():
            # A file that is named now overrides what was added before; nothing else may be defined twice.
            if name in specs and specs[name] != spec and origin[name] != data_dir / ADDED:
                raise UsageError(
                    f"{file}: data set {name!r} is already defined in {origin[name]}; rename either"
                )
            specs[name], origin[name] = spec, file
    return {name: (spec, origin[name]) for name, spec in specs.items()}


def read_catalog(file: Path, plugin: plugins.Plugin | None = None) -> dict[str, DatasetSpec]:
    """Read and check the tables of a file.

    `raw` becomes absolute and defaults to the folder of a user's file; in the file of an installed package (`plugin`),
    to none, so that nothing is ever fetched into it.
    """
    content = read_toml(file)
    return {name: _read_table(file, name, table, plugin) for name, table in content.items()}


def _read_table(file: Path, name: str, table: Any, plugin: plugins.Plugin | None) -> DatasetSpec:
    if not isinstance(table, dict):
        raise UsageError(f"{file}: {name} is outside a table; put a line [name-of-the-data-set] before it")
    if "name" in table:
        raise UsageError(
            f"{file} [{name}]: the table's heading already names the data set; remove the key 'name'"
        )
    if plugin is not None and ":" in str(table.get("parser", "")):
        target = f"{plugin.module}.{table['parser']}"
        table = {**table, "reader": {"target": target, **plugin.facts()}}
    elif "reader" in table:
        raise UsageError(f"{file} [{name}]: unknown key 'reader'; parser names how the files are read")
    folder = file.parent if plugin is None or "raw" in table else None
    if file != datasets_file() and folder is not None and isinstance(table.get("raw", ""), str):
        table = {**table, "raw": str((file.parent / Path(table.get("raw", "")).expanduser()).resolve())}
    table = {**table, "name": name}
    try:
        return DatasetSpec.model_validate(table)
    except ValidationError as error:
        line = explained(error, table, DatasetSpec, hidden=INJECTED)
        raise UsageError(f"{file} [{name}]: {line}") from None


def find_dataset(name: str, data_dir: Path) -> DatasetSpec:
    """Return the data set called `name`; UsageError for an unknown name, with the nearest."""
    known = load_catalog(data_dir)
    if name not in known:
        others = plugged(data_dir)
        others.check(name)
        raise UsageError(f"{suggest(name, known, what='data set')}{others.hint()}")
    return known[name]


def resolve_name(
    text: str, data_dir: Path, *, protocol: str | None = None, ties: str | None = None
) -> tuple[DatasetSpec, str, Protocol]:
    """Return the table, the canonical name and the protocol of a name such as `amazon-beauty@random:1`."""
    wanted = PreparedName.parse(text).override(protocol=protocol, ties=ties)
    spec = find_dataset(wanted.dataset, data_dir)
    return spec, *resolve_in(spec, wanted)


def resolve_in(spec: DatasetSpec, wanted: PreparedName) -> tuple[str, Protocol]:
    """Return the canonical name and the protocol of a data set whose table is known."""
    name = wanted.text(default_protocol=spec.protocol, default_ties=spec.ties)
    ties, filters = wanted.ties or spec.ties, spec.filters.chosen()
    return name, build_protocol(wanted.protocol or spec.protocol, ties=ties, filters=filters)


def add_datasets(file: Path, data_dir: Path) -> list[str]:
    """Copy the checked tables of `file` into `<data-dir>/datasets.toml`; return their names.

    A table that was added before under the same name is replaced; a data set that ships with mmbench is not.
    """
    new = read_catalog(file)
    if not new:
        raise UsageError(f"{file} holds no table; begin it with a line [name-of-the-data-set]")
    shipped = read_catalog(datasets_file())
    for name in new:
        if name in shipped:
            raise UsageError(f"{file}: data set {name!r} ships with mmbench; choose another name")
    target = data_dir / ADDED
    tables = added_datasets(data_dir) | new
    write_text(target, "\n".join(_dump_table(spec) for _, spec in sorted(tables.items())))
    return list(new)


def added_datasets(data_dir: Path) -> dict[str, DatasetSpec]:
    """Return the data sets that `mmbench datasets add` copied."""
    file = data_dir / ADDED
    return read_catalog(file) if file.is_file() else {}


def forget_dataset(name: str, data_dir: Path) -> None:
    """Remove the table of an added data set; KeyError if it was not added."""
    tables = added_datasets(data_dir)
    del tables[name]
    write_text(data_dir / ADDED, "\n".join(_dump_table(spec) for _, spec in sorted(tables.items())))


def _dump_table(spec: DatasetSpec) -> str:
    content = spec.model_dump(mode="json", exclude={"name"}, exclude_none=True, exclude_defaults=True)
    return f"[{spec.name}]\n" + "".join(f"{key} = {_dump(value)}\n" for key, value in content.items())


def _dump(value: Any) -> str:
    """Return a TOML value; strings, numbers and booleans are written as JSON, tables and arrays inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_dump(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_dump(entry) for entry in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
