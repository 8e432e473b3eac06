"""What defines a prepared data set, and whether it has changed since the data were prepared."""

from pathlib import Path

from mmbench.atomic import file_stamp, hash_file
from mmbench.data.catalog import load_catalog, resolve_in
from mmbench.data.manifest import Definition, RawFileFacts
from mmbench.data.protocol import PreparedName, differing_fields
from mmbench.data.raw_files import raw_folders
from mmbench.data.spec import DatasetSpec
from mmbench.data.store import Prepared
from mmbench.errors import DataError

CODE = 2  # is raised when the same raw files and protocol give different prepared data
PRESENTATION = ("title", "printed", "slips")  # keys of a table that do not change any number


def definition_of(spec: DatasetSpec) -> Definition:
    """Return what the data depend on besides protocol, raw files and pictures."""
    return Definition(table=spec.content(), code=CODE)


def check_current(prepared: Prepared) -> None:
    """Raise DataError when the definition or a raw file changed since the data set was prepared."""
    why = why_outdated(prepared)
    if why is not None:
        raise DataError(why)


def why_outdated(prepared: Prepared) -> str | None:
    """Return a line that says what changed since the data set was prepared and what to do; None if nothing is known.

    Nothing is known about data that no table describes, nor about raw files that are gone or lie in a folder named
    with --raw. A raw file is hashed again only if its size or its times differ.
    """
    definition = prepared.manifest.definition
    if definition is None:
        return None
    spec = load_catalog(prepared.data_dir).get(prepared.manifest.dataset)
    if spec is None:
        return None
    name, rules = resolve_in(spec, PreparedName.parse(prepared.name))
    if name != prepared.name:  # a part of its name has become the default
        advice = f"run: mmbench prepare {name}, then remove {prepared.path}"
        return f"{prepared.name}: its definition changed since it was prepared (it is called {name} now); {advice}"
    changed = _changed_keys(definition, definition_of(spec)) + differing_fields(rules, prepared.protocol)
    if changed:
        reason = f"its definition changed since it was prepared ({', '.join(changed)})"
    elif file := _changed_file(prepared, spec):
        reason = f"its raw file {file} changed since it was prepared"
    else:
        return None
    return f"{prepared.name}: {reason}; run: mmbench prepare {prepared.name}"


def _changed_keys(before: Definition, now: Definition) -> list[str]:
    """Return the keys whose definition differs."""
    keys = [key for key in {**now.table, **before.table} if now.table.get(key) != before.table.get(key)]
    return [key for key in keys if key not in PRESENTATION] + ["code of mmbench"] * (now.code != before.code)


def _changed_file(prepared: Prepared, spec: DatasetSpec) -> str | None:
    """Return the first raw file whose content differs from what was prepared."""
    for facts in prepared.manifest.raw:
        if facts.stamp is None:
            continue
        paths = [folder / facts.file for folder in raw_folders(spec, prepared.data_dir)]
        file = next((path for path in paths if path.is_file()), None)
        if file is not None and _differs(file, facts):
            return str(file)
    return None


def _differs(file: Path, facts: RawFileFacts) -> bool:
    try:
        return file_stamp(file) != facts.stamp and hash_file(file) != facts.sha256
    except OSError:  # a file that cannot be read is not known to differ
        return False
