"""One process at a time works on a run folder, and what is in it belongs together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from headsearch.errors import EngineError, RunFolderError, StorageError
from headsearch.heads import HeadMap, HeadSet
from headsearch.run import command
from headsearch.run.config import RunConfig, inherited
from headsearch.run.folder import RunFolder, are_alike

FILES = ("config.json", "mask.json", "result.json", "transcript.jsonl", "memo.sqlite")


@pytest.fixture(scope="module")
def done(assets: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a certificate."""

    class Quiet:
        def on_progress(self, values: dict[str, Any]) -> None: ...

    config = RunConfig(
        model=str(assets.model),
        data=str(assets.data),
        certify_data=str(assets.certify),
        max_drop=0.1,
        engine="inline",
        max_evaluations=30,
    )
    out = tmp_path_factory.mktemp("done") / "run"
    command.start(config, out, Quiet())
    assert (out / "certified_mask.json").exists()
    return out


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


def content(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES}


def test_a_second_process_is_refused_and_spoils_nothing(run: Path, headsearch: Any) -> None:
    before = content(run)
    with RunFolder(run).claim():
        refused = headsearch("resume", run, "--max-drop", "0.02")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.splitlines()[-1] == (
        "headsearch: one process at a time may work on a run folder but another one works on "
        f"{run}: wait until it ends, or stop it"
    )
    assert content(run) == before
    assert headsearch("resume", run, "--quiet").code == 0  # as soon as the other one is gone


def test_a_claim_ends_with_its_transcript(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.claim() as first:
        first.write({"step": 0})
        with pytest.raises(RunFolderError, match="one process at a time"):
            folder.claim()
    with folder.claim() as second:
        assert (tmp_path / "transcript.jsonl").read_text() == '{"step":0}\n'
        second.begin()
        second.write({"step": 1})
        second.begin()
        second.write({"step": 2})
    assert (tmp_path / "transcript.jsonl").read_text() == '{"step":2}\n'


def test_where_files_can_not_be_locked_it_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*args: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with RunFolder(tmp_path).claim() as transcript:
        transcript.write({"step": 0})
    assert (tmp_path / "transcript.jsonl").read_text() == '{"step":0}\n'


@pytest.mark.parametrize(
    "change",
    [("--max-drop", "0.05"), pytest.param(("--confidence", "0.9"), marks=pytest.mark.slow)],
)
def test_a_resume_that_asks_something_else_leaves_no_old_answer(
    run: Path, change: tuple[str, str], headsearch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_workers(*args: Any, **options: Any) -> None:
        raise EngineError("no workers today")

    old = content(run)
    with monkeypatch.context() as broken:
        broken.setattr(command.engines, "start", no_workers)
        for changed in (("--patience", "3"), change):
            assert headsearch("resume", run, *changed).code == 2
            assert content(run) == old, "nothing has begun"
    with monkeypatch.context() as broken:
        broken.setattr(command, "run_search", no_workers)
        assert headsearch("resume", run, "--patience", "3").code == 2
        assert {name: content(run)[name] for name in FILES[1:3]} == {
            name: old[name] for name in FILES[1:3]
        }
        assert headsearch("resume", run, *change).code == 2
    for name in ("mask.json", "certified_mask.json", "result.json"):
        assert not (run / name).exists()
    refused = headsearch("verify", run)
    assert (refused.code, "has no mask.json yet" in refused.err) == (2, True)
    assert headsearch("resume", run, "--quiet").code == 0
    asked = json.loads((run / "config.json").read_text())["asked"]
    assert asked[change[0][2:].replace("-", "_")] == float(change[1])
    assert json.loads((run / "result.json").read_text())["max_drop"] == asked["max_drop"]
    assert headsearch("verify", run).code == 0


def test_a_run_is_gone_on_with_from_another_folder(
    assets: Any, tmp_path: Path, headsearch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    shutil.copytree(assets.model, here / "model")
    for name, path in (("dev.csv", assets.data), ("late.csv", assets.certify)):
        shutil.copy(path, here / name)
    monkeypatch.chdir(here)
    options = ["--certify-data", "late.csv", "--engine", "inline", "--max-evaluations", 8]
    done = headsearch("run", "./model", "--data", "dev.csv", *options, "--out", "run")
    assert done.code == 0, done.err
    result = (here / "run" / "mask.json").read_bytes()
    monkeypatch.chdir(there)
    for name in ("verify", "report"):
        done = headsearch(name, "../here/run")
        assert done.code == 0, done.err
    assert "Not shown" not in (here / "run" / "report.html").read_text()
    small = ("--format", "zeroed", "--out", "small")
    assert headsearch("export", "../here/run", *small).code == 0
    assert headsearch("resume", "../here/run", "--quiet").code == 0
    assert (here / "run" / "mask.json").read_bytes() == result
    assert headsearch("verify", "../here/run").code == 0  # where it was gone on with
    # What is here comes first, and is not taken for what was searched.
    shutil.copytree(assets.model, there / "model")
    shutil.copy(assets.held_out, there / "dev.csv")
    config = json.loads((here / "run" / "config.json").read_text())
    config["asked"] |= {"model": "model", "data": "dev.csv"}
    (here / "run" / "config.json").write_text(json.dumps(config))
    assert "are not those that were searched" in headsearch("verify", "../here/run").out


def test_a_time_limit_counts_from_where_a_run_goes_on(run: Path, headsearch: Any) -> None:
    before = json.loads((run / "result.json").read_text())
    assert headsearch("resume", run, "--time-limit", "0s", "--patience", 9, "--quiet").code == 0
    after = json.loads((run / "result.json").read_text())
    assert after["stopped"] == before["stopped"] == "evaluation budget spent"
    more = ("--max-evaluations", 60, "--time-limit", "0s", "--quiet")
    assert headsearch("resume", run, *more).code == 0
    after = json.loads((run / "result.json").read_text())
    assert after["stopped"] == "time limit reached"
    assert after["evaluations"] >= before["evaluations"]
    assert after["best"]["heads_removed"] >= before["best"]["heads_removed"]


@pytest.mark.parametrize("name", ["report", "export"])
def test_a_mask_and_a_result_of_two_searches_are_refused(
    name: str, run: Path, headsearch: Any, tmp_path: Path
) -> None:
    mask = json.loads((run / "mask.json").read_text())
    mask["removed"] = {"0": [0]}
    (run / "mask.json").write_text(json.dumps(mask))
    out = ("--format", "narrow", "--out", tmp_path / "small") if name == "export" else ()
    refused = headsearch(name, run, *out)
    assert (refused.code, refused.out) == (2, "")
    assert "mask.json and result.json of" in refused.err
    assert f"`headsearch resume {run}` writes both anew" in refused.err
    told = "mask.json is not of the heads that result.json tells of"
    assert told in headsearch("verify", run).out  # what it scores is the mask
    assert headsearch("resume", run, "--quiet").code == 0
    done = headsearch("verify", run)
    assert (done.code, told in done.out) == (0, False)


def test_a_folder_that_is_no_run_is_not_said_to_be_one(
    run: Path, assets: Any, headsearch: Any, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for folder, hint in ((tmp_path / "empty", False), (run, True)):
        refused = headsearch("run", assets.model, "--data", assets.data, "--out", folder)
        assert refused.code == 2
        assert "the run folder must not exist yet" in refused.err
        assert ("headsearch resume" in refused.err) is hint


def test_what_ends_a_search_is_said_where_not_even_that_can_be_written(
    run: Path, headsearch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        monkeypatch.setattr(RunFolder, "write_json", refusing)
        raise StorageError("could not write to the memo: the disk is full")

    def refusing(self: RunFolder, name: str, values: Any) -> None:
        raise StorageError(f"could not write {name}: no space")

    monkeypatch.setattr(command, "run_search", full)
    refused = headsearch("resume", run, "--patience", 3)
    assert refused.code == 2
    assert "could not write to the memo: the disk is full" in refused.err
    assert "progress.json" not in refused.err


def test_a_run_of_a_cluster_is_gone_on_with_on_one_machine(run: Path, headsearch: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    before = (run / "mask.json").read_bytes()
    config["asked"] |= {"engine": "ray", "ray_address": "auto", "workers": 8}
    config["asked"] |= {"gpus_per_worker": 1.0}
    (run / "config.json").write_text(json.dumps(config))
    done = headsearch("resume", run, "--engine", "inline", "--quiet")
    assert done.code == 0, done.err
    assert (run / "mask.json").read_bytes() == before
    asked = json.loads((run / "config.json").read_text())["asked"]
    assert [asked[name] for name in ("engine", "ray_address", "workers")] == ["inline", None, None]
    refused = headsearch("resume", run, "--engine", "inline", "--workers", 2)
    assert "the inline engine has 1 worker but `workers` is 2" in refused.err


def test_what_was_asked_of_a_cluster_is_not_inherited_by_the_inline_engine() -> None:
    before = {"model": "m", "workers": 8, "ray_address": "auto", "engine": "ray"}
    assert inherited(before, {"engine": "inline"}) == {"model": "m", "engine": "inline"}
    assert inherited(before, {"workers": 2}) == {**before, "workers": 2}


def test_checks_at_the_end_are_told_of(assets: Any, tmp_path: Path) -> None:
    told: list[str] = []

    class Notes:
        def on_progress(self, values: dict[str, Any]) -> None:
            if not told or told[-1] != values["kind"]:
                told.append(values["kind"])
                if (tmp_path / "run" / "progress.json").exists():
                    written.append(json.loads((tmp_path / "run" / "progress.json").read_text()))

    written: list[dict[str, Any]] = []
    config = RunConfig(
        model=str(assets.model),
        data=str(assets.data),
        certify_data=str(assets.certify),
        engine="inline",
        max_evaluations=8,
    )
    command.start(config, tmp_path / "run", Notes())
    assert told[-2:] == ["verifying", "certifying"]
    assert written[-1]["kind"] == "verifying"
    assert written[-1]["state"] == "running"


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt, "interrupted"), (SystemExit, "failed")]
)
def test_whatever_ends_a_search_is_written_down(
    error: type[BaseException], state: str, assets: Any, tmp_path: Path
) -> None:
    class Ends:
        def on_progress(self, values: dict[str, Any]) -> None:
            if values["step"] == 1:
                raise error

    config = RunConfig(model=str(assets.model), data=str(assets.data), engine="inline")
    with pytest.raises(error):
        command.start(config, tmp_path / "run", Ends())
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["state"] == state


def test_a_folder_whose_config_can_not_be_written_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headsearch.run.folder.json.dump", full)
    with pytest.raises(StorageError, match="No space left"):
        RunFolder.create(tmp_path / "run", RunConfig(model="m", data="d"), "f")
    assert list(tmp_path.iterdir()) == []


def test_a_result_and_a_mask_of_as_many_other_heads_are_not_alike() -> None:
    shape = HeadMap((3,))
    result = {"heads": 3, "best": {"removed": [[0, 1]]}}
    assert are_alike(result, shape.to_mask(HeadSet.of([1])))
    assert not are_alike(result, shape.to_mask(HeadSet.of([2])))


def test_what_could_not_be_written_leaves_the_file_as_it_was_and_nothing_beside_it(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("result.json", {"metric": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("result.json", {"metric": [0.5] * 10_000 + [float("nan")]})
    assert folder.read_json("result.json") == {"metric": 0.5}
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]
