"""Every source gives the same examples; every bad input gives one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from headsearch.errors import DataError, InputError
from headsearch.task.data import examples_from_rows, load_examples

NAMES = {0: "neg", 1: "pos", 2: "mixed"}
ROWS = {
    "text": ["a film", "null", "", 'with "quotes", and commas', "NA"],
    "other": ["p", "q", "r", "s", "t"],
    "label": ["pos", "neg", "pos", "mixed", "neg"],
}
IDS = [1, 0, 1, 2, 0]


def load(source: Any, **options: Any):
    options = {"id2label": NAMES, "classes": 3, **options}
    return load_examples(str(source), **options)


def from_rows(rows: Any, **options: Any):
    return examples_from_rows(rows, **{"id2label": NAMES, "classes": 3, **options})


@pytest.fixture(
    params=["csv", "csv.gz", "csv.bz2", "tsv", "json", "jsonl", "parquet", "folder", "splits"]
)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind, path = request.param, tmp_path / f"data.{request.param}"
    # An empty CSV field is a null; the other formats can tell "" from null.
    table = pd.DataFrame({**ROWS, "text": ["a film", "null", "x", *ROWS["text"][3:]]})
    if kind.startswith("csv"):
        table.to_csv(path, index=False)
    elif kind == "tsv":
        table.to_csv(path, index=False, sep="\t")
    elif kind in ("json", "jsonl"):
        lines = [json.dumps(row) for row in table.to_dict("records")]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        made = datasets.Dataset.from_dict(table.to_dict("list"))
        (made if kind == "folder" else datasets.DatasetDict({"dev": made})).save_to_disk(path)
    return path


def test_all_sources_give_the_same_examples(source: Path) -> None:
    found = load(source, pair_column="other")
    assert found.texts == ["a film", "null", "x", 'with "quotes", and commas', "NA"]
    assert found.pairs == ROWS["other"]
    assert found.labels.tolist() == IDS
    assert found.labels.dtype == np.int64


def test_local_data_leave_nothing_in_the_users_cache_and_print_nothing(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache")
    capfd.readouterr()  # what writing the source printed
    load(source)
    assert not (tmp_path / "cache").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["a*.csv", "a[1].csv", "a?.csv", "[b]/a.csv", ".hidden/50%, c.csv"]
)
def test_a_file_name_is_a_name_and_no_pattern(tmp_path: Path, name: str) -> None:
    for path, text in [(tmp_path / "ab.csv", "other"), (tmp_path / name, "right")]:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text,label\n{text},pos\n{text},neg\n")
    assert load(tmp_path / name).texts == ["right", "right"]


def test_the_type_of_a_csv_column_is_not_told_by_its_first_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    values = [*range(11_000), 4.5]
    path.write_text("text,label\n" + "".join(f"a,{value}\n" for value in values))
    assert load(path, classes=1).labels.tolist() == values


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)],
        datasets.Dataset.from_dict(ROWS),
        datasets.Dataset.from_dict(ROWS).with_format("numpy"),
        {name: np.array(values) for name, values in ROWS.items()},
    ],
)
def test_python_rows_of_every_kind(rows: Any) -> None:
    found = from_rows(rows)
    assert (found.texts, found.pairs, found.labels.tolist()) == (ROWS["text"], None, IDS)
    assert {type(text) for text in found.texts} == {str}


@pytest.mark.parametrize(
    "labels",
    [IDS, [float(i) for i in IDS], [str(i) for i in IDS], ["pos", 0, "1", 2.0, "neg"]],
)
def test_labels_may_be_ids_or_names(labels: list[Any]) -> None:
    assert from_rows({"text": ROWS["text"], "label": labels}).labels.tolist() == IDS


def test_class_label_features_go_by_name_where_the_model_knows_the_names() -> None:
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["pos", "mixed", "neg"]),
        }
    )
    rows = datasets.Dataset.from_dict({"text": list("abc"), "label": [0, 1, 2]}, features=features)
    assert from_rows(rows).labels.tolist() == [1, 2, 0]
    # In capitals or not: MNLI's names and those of many models of it.
    loud = {0: "NEG", 1: "Pos", 2: "MIXED"}
    assert from_rows(rows, id2label=loud).labels.tolist() == [1, 2, 0]
    # Where capitals alone tell the model's names apart, they do.
    both = {0: "neg", 1: "NEG", 2: "pos"}
    assert from_rows(rows, id2label=both).labels.tolist() == [0, 1, 2]
    # Names that the model does not know: then ids are ids.
    assert from_rows(rows, id2label={0: "A", 1: "B", 2: "C"}).labels.tolist() == [0, 1, 2]
    # GLUE's hidden test labels.
    hidden = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]}, features=features)
    with pytest.raises(DataError, match="but row 1 is -1"):
        from_rows(hidden)


def test_default_names_and_names_made_of_digits() -> None:
    rows = {"text": ["a", "b"], "label": ["LABEL_1", "LABEL_0"]}
    default = {0: "LABEL_0", 1: "LABEL_1"}
    assert from_rows(rows, id2label=default, classes=2).labels.tolist() == [1, 0]
    # A name wins over an id that is written alike.
    stars = {"text": ["a", "b"], "label": ["1", "2"]}
    assert from_rows(stars, id2label={0: "1", 1: "2"}, classes=2).labels.tolist() == [0, 1]


STARS = {0: "1", 1: "2", 2: "3"}


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        (["1", "2", "3"], [0, 1, 2]),
        (["0", "1", "2"], [0, 1, 2]),  # texts, but one of them is no name
        ([1, 2, 3], [0, 1, 2]),  # as a CSV file has them: one of them is no id
        ([1.0, 3.0], [0, 2]),
        ([0, 1, 2], [0, 1, 2]),
        (np.array([3, 1]), [2, 0]),
        (["1", 0], [0, 0]),
    ],
)
def test_names_that_are_numbers_are_told_from_ids_by_the_whole_column(
    labels: Any, ids: list[int]
) -> None:
    rows = {"text": ["a"] * len(labels) + ["b"], "label": [*labels, labels[-1]]}
    if len(set(ids)) > 1:
        assert from_rows(rows, id2label=STARS, classes=3).labels.tolist() == [*ids, ids[-1]]
    else:
        with pytest.raises(DataError, match="must not all be the same"):
            from_rows(rows, id2label=STARS, classes=3)


@pytest.mark.parametrize("labels", [[1, 2], [2.0, 1.0]])
def test_numbers_that_may_be_names_or_ids_are_refused(labels: list[Any]) -> None:
    with pytest.raises(DataError, match=r"must tell names from ids but . may be the class"):
        from_rows({"text": ["a", "b"], "label": labels}, id2label=STARS, classes=3)
    # Where names and ids agree it does not matter.
    same = from_rows({"text": ["a", "b"], "label": labels}, id2label=dict(enumerate("012")))
    assert same.labels.tolist() == [int(label) for label in labels]


def test_true_and_false_are_names_where_the_model_has_them() -> None:
    rows = {"text": ["a", "b"], "label": [True, False]}
    turned = from_rows(rows, id2label={0: "True", 1: "False"}, classes=2)
    assert turned.labels.tolist() == [0, 1]
    assert from_rows(rows, id2label={0: "neg", 1: "pos"}, classes=2).labels.tolist() == [1, 0]
    for names in ({0: "true", 1: "false"}, {0: "TRUE", 1: "FALSE"}):
        assert from_rows(rows, id2label=names, classes=2).labels.tolist() == [0, 1]


@pytest.mark.parametrize("written", ["true", "TRUE", "True"])
def test_flags_of_a_csv_file_are_the_models_names(written: str, tmp_path: Path) -> None:
    other = {"true": "false", "TRUE": "FALSE", "True": "False"}[written]
    (tmp_path / "a.csv").write_text(f"text,label\na,{written}\nb,{other}\n")
    found = load_examples(str(tmp_path / "a.csv"), id2label={0: written, 1: other}, classes=2)
    assert found.labels.tolist() == [0, 1]


def test_names_that_begin_with_a_zero_are_not_taken_for_ids(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,01\nb,02\n")
    names = {0: "01", 1: "02", 2: "03"}
    with pytest.raises(DataError, match="must tell names from ids but 1 may be the class of"):
        load_examples(str(tmp_path / "a.csv"), id2label=names, classes=3)
    (tmp_path / "b.csv").write_text("text,label\na,01\nb,02\nc,03\n")
    found = load_examples(str(tmp_path / "b.csv"), id2label=names, classes=3)
    assert found.labels.tolist() == [0, 1, 2]


def test_a_quote_that_swallows_lines_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text('text\tlabel\n"hello a\tneg\nb\tpos\nc\tneg\nend" d\tpos\n')
    with pytest.raises(DataError, match="a quote opens the text of row 0 and nothing closes it"):
        load_examples(str(file), id2label=NAMES, classes=3)
    file.write_text('text\tlabel\n"two\nlines"\tneg\n"a ""word"" b"\tpos\n')
    found = load_examples(str(file), id2label=NAMES, classes=3)
    assert found.texts == ["two\nlines", 'a "word" b']


def test_the_ids_of_a_class_label_are_never_names() -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 2]}, features=features)
    assert from_rows(rows, id2label=STARS, classes=3).labels.tolist() == [1, 2]


def test_regression_labels_are_numbers() -> None:
    found = from_rows({"text": list("abc"), "label": ["1.5", -2, 0.25]}, classes=1)
    assert found.labels.tolist() == [1.5, -2.0, 0.25]


def test_max_examples_takes_a_seeded_part_in_source_order() -> None:
    rows = {"text": [str(i) for i in range(100)], "label": [i % 3 for i in range(100)]}
    first, again, other = (from_rows(rows, max_examples=30, seed=s) for s in (1, 1, 2))
    numbers = [int(text) for text in first.texts]
    assert len(numbers) == 30
    assert numbers == sorted(set(numbers))
    assert [i % 3 for i in numbers] == first.labels.tolist()
    assert first.texts == again.texts != other.texts
    assert from_rows(rows, max_examples=1000).texts == rows["text"]
    with pytest.raises(InputError, match="`max_examples` must be at least 1 but got 0"):
        from_rows(rows, max_examples=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"t": ["a"], "label": [0]}, "column 'text' not found; the columns are t, label"),
        ({"text": ["a"], "y": [0]}, "column 'label' not found; the columns are text, y"),
        ({"text": [], "label": []}, "must have at least one example but are empty"),
        ([], "must have at least one example but are empty"),
        ({"text": ["a", "b"], "label": [1, 1]}, "must not all be the same but all 2 are pos (1)"),
        ({"text": ["a", None], "label": [0, 1]}, "1 of 2 are not: row 1 is null"),
        ({"text": ["a", 7], "label": [0, 1]}, "1 of 2 are not: row 1 is of type int"),
        (
            {"text": ["a", "cut \ud83d"], "label": [0, 1]},
            "column 'text' must hold valid Unicode but row 1 has '\\ud83d', half of a character",
        ),
        (
            {"text": ["a", "b"], "label": [0, "great"]},
            "labels of the model, neg (0), pos (1), mixed (2), but row 1 is 'great'",
        ),
        ({"text": ["a", "b"], "label": [0, 3]}, "but row 1 is 3"),
        ({"text": ["a", "b"], "label": [0, -1]}, "but row 1 is -1"),
        ({"text": ["a", "b"], "label": [0, 0.5]}, "but row 1 is 0.5"),
        ({"text": ["a", "b"], "label": [0, None]}, "but row 1 is null"),
        ({"text": ["a", "b"], "label": [0, float("inf")]}, "but row 1 is inf"),
        ({"text": ["a", "b"], "label": np.array([0, 3])}, "but row 1 is 3"),
        ({"text": ["a", "b"], "label": [0, "9" * 5000]}, "but row 1 is '999999999999..."),
        ({"text": ["a", "b"], "label": [0]}, "must have the same length"),
        (7, "must be rows or columns but got int"),
        ([1, 2], "each row of the data must be a mapping"),
    ],
)
def test_bad_rows_are_one_clear_line(rows: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        from_rows(rows)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "warm", float("nan"), float("inf"), 10**400, True])
def test_bad_regression_labels(value: Any) -> None:
    with pytest.raises(DataError, match="must hold finite numbers"):
        from_rows({"text": ["a", "b"], "label": [0.5, value]}, classes=1)


def test_regression_labels_that_are_all_the_same() -> None:
    with pytest.raises(DataError, match=r"must not all be the same but all 2 are 0\.5"):
        from_rows({"text": ["a", "b"], "label": [0.5, 0.5]}, classes=1)


def test_nulls_in_the_pair_column() -> None:
    with pytest.raises(DataError, match="column 'other' must hold texts but 1 of 2"):
        from_rows({"text": ["a", "b"], "other": [None, "c"], "label": [0, 1]}, pair_column="other")


def test_an_empty_csv_field_is_a_null(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\nfine,pos\n,neg\n")
    with pytest.raises(DataError, match="1 of 2 are not: row 1 is null"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", "", "at least one example"),
        ("data.csv", "text,label\n", "at least one example"),
        ("data.jsonl", "{broken", "could not read"),
        ("data.parquet", "not parquet", "could not read"),
        ("data.xlsx", "x", "must end in one of .csv, .tsv, .json, .jsonl, .parquet"),
    ],
)
def test_bad_files(
    tmp_path: Path, name: str, content: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # `datasets` logs such errors unless told not to


@pytest.mark.parametrize(
    "name", ["missing.csv", "missing.jsonl.gz", "./missing", "/no/such/file.parquet", "csv"]
)
def test_missing_files(name: str) -> None:
    with pytest.raises(DataError, match="data file not found"):
        load(name)


def test_hub_names_that_can_not_be_reached() -> None:
    with pytest.raises(DataError, match="neither an existing file or folder nor a data set"):
        load("some-organisation/some-data")


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder written by `save_to_disk`"):
        load(tmp_path)
    made = datasets.Dataset.from_dict(ROWS)
    both = datasets.DatasetDict({"dev": made, "test": made.select([0, 1])})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match="`split` must be one of dev, test"):
        load(tmp_path / "both")
    assert len(load(tmp_path / "both", split="test").texts) == 2
