"""What defines a prepared data set, and whether that is still what it was when the data were prepared."""

from pathlib import Path

from mmbench.atomic import file_stamp, hash_file
from mmbench.data.catalog import load_catalog, resolve_in
from mmbench.data.manifest import Definition, RawFileFacts
from mmbench.data.protocol import PreparedName, differing_fields
from mmbench.data.raw_files import usual_places
from mmbench.data.spec import DatasetSpec
from mmbench.data.store import Prepared
from mmbench.errors import DataError

CODE = 1  # raise it when the same raw files and protocol give other prepared data
PRESENTATION = ("title", "printed", "slips")  # keys of a table that change no number


def definition_of(spec: DatasetSpec) -> Definition:
    """Return what decides the data besides protocol, raw files and pictures."""
    return Definition(table=spec.content(), code=CODE)


def check_current(prepared: Prepared) -> None:
    """Raise DataError when the definition or a raw file changed since the data set was prepared."""
    why = why_outdated(prepared)
    if why is not None:
        raise DataError(why)


def why_outdated(prepared: Prepared) -> str | None:
    """Return one line about what changed since the data set was prepared, and what to do; None = nothing is known to.

    Nothing is known of data that no table describes, and of raw files that are gone or lie in a folder that was
    named with --raw. A raw file is read again only where its size or its times are others.
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
    """Return the names of what is defined otherwise than before."""
    keys = [key for key in {**now.table, **before.table} if now.table.get(key) != before.table.get(key)]
    return [key for key in keys if key not in PRESENTATION] + ["code of mmbench"] * (now.code != before.code)


def _changed_file(prepared: Prepared, spec: DatasetSpec) -> str | None:
    """Return the first raw file whose content is not what was prepared."""
    for known in prepared.manifest.raw:
        if known.stamp is None:
            continue
        places = [place / known.file for place in usual_places(spec, prepared.data_dir)]
        file = next((place for place in places if place.is_file()), None)
        if file is not None and _differs(file, known):
            return str(file)
    return None


def _differs(file: Path, known: RawFileFacts) -> bool:
    try:
        return file_stamp(file) != known.stamp and hash_file(file) != known.sha256
    except OSError:  # nothing is known of what cannot be read
        return False
