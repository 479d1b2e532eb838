"""YAML and command line: mistakes that people make in files and names are one sentence; paths are what shells make."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from pydantic import Field

from jobs import command
from pipeline.base.command_line import load, parse
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.places import FileOrFolder, Folder, absolute
from pipeline.base.strict_yaml import load_yaml
from pipeline.generate import GenerateConfig
from pipeline.runs.config import RunConfig
from pipeline.storage.labels import named_labels


class Inner(Config):
    weights: Folder


class Reading(Config):
    """Reads."""

    pairs: tuple[Folder, ...] = ()
    sets: dict[str, tuple[Folder, ...]] = Field(default_factory=dict)
    prompts: FileOrFolder = ""
    inner: Inner = Inner(weights="")
    other: str = "nowhere"


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path):
    (tmp_path / "c.yaml").write_bytes("run: a\nexperiment: café\n".encode("latin-1"))
    for read in (lambda: load(RunConfig, tmp_path / "c.yaml"), lambda: parse(RunConfig, [str(tmp_path / "c.yaml")])):
        with pytest.raises(ConfigError, match=r"c\.yaml: line 2 is not UTF-8; save the config as UTF-8"):
            read()


def test_files_are_utf_8_whatever_the_machine_speaks(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text("\ufeffrun: 袋\n", encoding="utf-8")
    monkeypatch.setattr("locale.getencoding", lambda: "latin-1")
    assert load(RunConfig, tmp_path / "c.yaml").run == "袋"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: a\nseed: 1\nrun: b\n", "the key run stands twice, in lines 1 and 3; keep one of them"),
        ("run: a\nsampler:\n  steps: 3\n  'steps': 4\n", "the key steps stands twice, in lines 3 and 4"),
        ("run: a\nexperiment: 2024-13-01\n", "not valid YAML: month must be in 1..12"),
        ("run: a\nseed: [" + "[" * 2000, "not valid YAML"),
        ("run: a\nseed: *nobody\n", "not valid YAML: found undefined alias"),
        ("", "a config is a list of `key: value` lines, found NoneType"),
    ],
)
def test_mistakes_in_yaml_are_one_line(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load(GenerateConfig, tmp_path / "c.yaml")
    assert str(error.value).startswith(f"{tmp_path}/c.yaml: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_key_in_two_sections_or_over_a_merged_one_is_no_mistake():
    assert load_yaml("a: {x: 1}\nb: {x: 2}\n") == {"a": {"x": 1}, "b": {"x": 2}}
    assert load_yaml("a: &one {x: 1}\nb: {<<: *one, x: 2}\nc: {<<: *one}\n")["b"] == {"x": 2}


def test_label_spaces_are_as_strict(tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text("name: own\nclasses: [background, bag]\nname: other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="the key name stands twice, in lines 1 and 3"):
        named_labels("~/own.yaml")


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/runs") == f"{tmp_path}/runs"
    assert absolute("~") == str(tmp_path)
    assert absolute("s3://bucket/~/runs") == "s3://bucket/~/runs"
    assert absolute("a~b") == os.path.abspath("a~b")
    (tmp_path / "c.yaml").write_text("run: a\nruns: ~/here\n")
    config = parse(RunConfig, ["~/c.yaml"])
    assert str(config.folder) == f"{tmp_path}/here/a" and config.mlflow_uri == f"sqlite:///{tmp_path}/here/mlflow.db"


def test_a_path_that_would_be_cut_is_refused():
    with pytest.raises(ConfigError, match=r"/data/a::b/c: a path must not hold `::`; rename"):
        absolute("/data/a::b/c")


def test_arguments_that_are_no_text_are_refused():
    with pytest.raises(ConfigError, match=r"command line: 'a\\udcff' is not UTF-8"):
        parse(RunConfig, ["--run", os.fsdecode(b"a\xff")])


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "proof/real + synthetic-0-ab12cd34",
        "proof/synthetic, refined 8 px-2-0a",
        "v1.2",
        "..a",
        "袋 👜",
        "a=b,c",
        "~a",
    ],
)
def test_names_of_runs(name):
    assert RunConfig(run=name).run == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((f"a{wrong}b", f"a name must not hold {wrong}") for wrong in ("?", "#", "*", '"', "'", "\\", "::", "://")),
        *((f"a{wrong}b", "control characters") for wrong in ("\n", "\t", "\0", "\x7f", "\u2028", "\x85")),
        *((wrong, "must not begin or end") for wrong in ("/a", "a/", " a", "a ", "a/../b", "..", ".", "a/./b", "a//b")),
    ],
)
def test_names_that_break_paths_or_mlflow_are_refused(name, message):
    with pytest.raises(ConfigError) as error:
        parse(RunConfig, ["--run", name])
    assert str(error.value).startswith("command line: run: a name must not ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_sets_of_a_proof_become_names_of_runs(tmp_path):
    from pipeline.evaluate import EvaluateConfig

    assert EvaluateConfig(run="p", sets={"real + synthetic": ("a",)}, test="b")
    with pytest.raises(ValueError, match=r"sets\n.*a name must not hold \?"):
        EvaluateConfig(run="p", sets={"better?": ("a",)}, test="b")


@pytest.mark.parametrize("place", ["runs?", "a#b", "a::b", "s3://bucket/runs?x=1", "a\nb", 'it\'s "here"'])
def test_folders_of_runs_that_addresses_cannot_hold_are_refused(place):
    with pytest.raises(ConfigError, match=r"^command line: runs: a folder of runs must (not )?hold .*; rename it"):
        parse(RunConfig, ["--run", "a", "--runs", place])


def test_typos_are_told_with_the_key_and_what_was_meant(tmp_path):
    (tmp_path / "garments").mkdir()
    (tmp_path / "prompts.txt").touch()
    Reading(pairs=(f"{tmp_path}/garments",), prompts=f"{tmp_path}/prompts.txt").check_inputs()
    Reading(pairs=("s3://bucket/nowhere",), inner=Inner(weights=f"{tmp_path}/garments")).check_inputs()
    for wrong, message in (
        (Reading(pairs=(f"{tmp_path}/garmets",)), f"pairs: there is no folder .*; did you mean {tmp_path}/garments?"),
        (
            Reading(prompts=f"{tmp_path}/promts.txt"),
            f"prompts: there is no file .*{tmp_path}/prompts.txt",
        ),
        (Reading(sets={"real": (f"{tmp_path}/xyz",)}), r"sets\.real: there is no folder .*; check the path"),
        (Reading(inner=Inner(weights=f"{tmp_path}/no/thing")), r"inner\.weights: .*; there is no folder .*/no$"),
        (Reading(pairs=(f"{tmp_path}/prompts.txt",)), "pairs: .*prompts.txt is a file, not a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong.check_inputs()


def test_a_job_with_a_typo_ends_before_it_does_anything(tmp_path, monkeypatch, capsys):
    (tmp_path / "garments").mkdir()
    monkeypatch.setattr(sys, "argv", ["job", "--inner.weights", f"{tmp_path}/garmnts"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        command(main, Reading)
    assert stop.value.code == 2
    told = f"there is no folder {tmp_path}/garmnts; did you mean {tmp_path}/garments?"
    assert capsys.readouterr().err == f"error: inner.weights: {told}\n"


def main(_: Reading) -> None:
    raise AssertionError("begins")
