"""Where labelled data come from: files, folders, the hub."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headsearch.errors import DataError

READERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
}
COMPRESSIONS = (".gz", ".bz2", ".xz")


def open_source(source: str, subset: str | None, split: str | None, cache: str) -> Any:
    """Return the rows of a source, a `datasets.Dataset`.

    Args:
        source: a CSV, JSON-lines or Parquet file; a `save_to_disk` folder; or a hub data set name.
        subset, split: of a hub data set; the split of a folder that holds several.
        cache: a folder for what reading a file leaves behind; the rows live there.

    Raises:
        DataError: the source is missing or can't be read.
    """
    path = Path(source)
    reader = _reader(path)
    if path.is_file():
        if reader is None:
            known = ", ".join(READERS)
            raise DataError(f"a data file must end in one of {known} but got {source}")
        return _load_file(path, reader, cache)
    if path.is_dir():
        return _load_folder(path, split)
    # `datasets` takes a bare "csv" or "json" for a reader, and would read the current folder by it.
    if reader is not None or source in READERS.values() or source.startswith((".", "/", "~")):
        raise DataError(f"data file not found: {source}")
    return _load_hub(source, subset, split)


def lacks(source: str, part: str) -> str | None:
    """Return why there is no "subset" or "split" of a source to choose; None if there may be."""
    path = Path(source)
    if path.is_file():
        return "is one file"
    # What the folder of one data set holds, and that of several splits does not.
    if path.is_dir() and (part == "subset" or (path / "state.json").is_file()):
        return f"has no {part}s"
    return None


def _reader(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return READERS.get(suffixes[-1]) if suffixes else None


def _load_file(path: Path, reader: str, cache: str) -> Any:
    if path.stat().st_size == 0:
        raise DataError(f"the data must have at least one example but {path} is empty")
    options: dict[str, Any] = {}
    if reader == "csv":
        # Only an empty field is a null: "null", "NA" and "nan" are words that texts may be.
        # No chunks: a column's type is not told by its first 10,000 rows (4, 5, 3, … then 4.5).
        options = {"keep_default_na": False, "na_values": [""], "chunksize": None}
        if ".tsv" in [suffix.lower() for suffix in path.suffixes]:
            options["sep"] = "\t"
    import datasets

    with quiet_datasets():
        try:
            # Escaped: a name with *, ? or [ in it is a name here, not a pattern.
            found = datasets.load_dataset(
                reader, data_files=glob.escape(str(path)), cache_dir=cache, **options
            )
        except Exception as error:
            if "corresponds to no data" in str(error):  # a file with a header and no rows
                raise DataError(
                    f"the data must have at least one example but {path} has none"
                ) from None
            raise DataError(f"could not read {path}: {_reason(error)}") from None
    if options.get("sep") == "\t":
        _check_quotes(found["train"], path)
    return found["train"]


def _check_quotes(table: Any, path: Path) -> None:
    """Refuse a field that a quote at its beginning has made of several rows.

    Raises:
        DataError: there is one.
    """
    for name in table.column_names:
        for row, value in enumerate(table[name]):
            if isinstance(value, str) and "\t" in value and "\n" in value:
                raise DataError(
                    f"could not read {path}: a quote opens the text of row {row} and nothing "
                    "closes it in its line, so that other lines are taken to be of it; double "
                    "such quotes and quote the whole text, or use JSON lines"
                )


def _load_folder(path: Path, split: str | None) -> Any:
    import datasets

    with quiet_datasets():
        try:
            found = datasets.load_from_disk(str(path))
        except Exception as error:
            raise DataError(
                f"{path} is not a folder written by `save_to_disk`: {_reason(error)}"
            ) from None
    if not isinstance(found, datasets.DatasetDict):
        return found
    names = sorted(found)
    if split is None and len(names) == 1:
        split = names[0]
    if split not in found:
        raise DataError(f"`split` must be one of {', '.join(names)} for {path} but got {split}")
    return found[split]


def _load_hub(source: str, subset: str | None, split: str | None) -> Any:
    import datasets

    with quiet_datasets():
        try:
            found = datasets.load_dataset(source, subset, split=split)
        except Exception as error:
            raise DataError(
                f"{source!r} is neither an existing file or folder nor a data set that could be "
                f"loaded from the hub: {_reason(error)}"
            ) from None
    if isinstance(found, datasets.DatasetDict):
        raise DataError(
            f"`split` must be one of {', '.join(sorted(found))} for {source!r} but none was given"
        )
    return found


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Keep the progress bars and log lines of `datasets` off the console; errors are raised."""
    import datasets

    bars, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _reason(error: BaseException) -> str:
    """The first line of what went wrong at the root."""
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
