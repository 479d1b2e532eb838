"""Every job looks for the files and folders that it is given before anything else."""

from __future__ import annotations

import importlib
import typing
from typing import Any

import pytest

from jobs.__main__ import job_files
from models.labels import GARMENTS, VOC
from models.weights import WeightsError
from pipeline.base.command_line import parse
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError, DataError, JoDiffusionError
from pipeline.base.places import FileOrFolder, Folder, SentFolder
from pipeline.generate import GenerateConfig
from pipeline.ingest import IngestConfig
from tests.pipeline.tables.test_contents import pairs, save
from tests.tiny import save_tiny_bundle

INPUTS = {
    "calibrate": "bundle prompts",
    "caption": "pairs",
    "compact": "pairs",
    "curate": "pairs scores marks",
    "demo": "bundle",
    "distill": "train validation bundle",
    "encode": "pairs encoders.text encoders.image_vae encoders.annotation_vae",
    "evaluate": "sets test judged validation generator_train",
    "export": "train validation test ignore_noisy",
    "gallery": "pairs scores",
    "generate": "bundle prompts",
    "label": "pairs labelled validation teacher.weights",
    "loop": "real validation prompts bundle",
    "multiply": "bundle pairs",
    "paper_table": "annotation_vae real synthetic test",
    "plan_prompts": "pairs file balance hardness",
    "refine": "pairs",
    "regenerate": "pairs bundle",
    "report": "pairs real proof trainings scores",
    "score": "pairs real validation judge_weights",
    "train_clip": "train validation",
    "train_joint": "train validation initial",
    "train_vae": "train validation decoder_of",
    "verify": "pairs",
}
OWN_WAY = {"demo_train", "import_weights", "ingest", "start", "submit"}
"""Make what they read, take names on a hub, or look on the cluster."""


def config_of(job: str) -> Any:
    return typing.get_type_hints(importlib.import_module(f"jobs.{job}").main)["config"]


def marked(kind: type[Config], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            found |= marked(field.annotation, f"{prefix}{key}.")
        elif is_marked((field.annotation, *field.metadata)):
            found.add(prefix + key)
    return found


def is_marked(parts: tuple[Any, ...]) -> bool:
    """Whether one of the types, or a type in one, is of an input."""
    marks = [one.__metadata__[0] for one in (Folder, FileOrFolder, SentFolder)]  # type: ignore[attr-defined]
    return any(
        any(part is mark for mark in marks)
        or is_marked(typing.get_args(part))
        or (isinstance(part, type) and issubclass(part, Config) and bool(marked(part)))
        for part in parts
    )


@pytest.mark.parametrize("job", [path.stem for path in job_files() if path.stem not in OWN_WAY])
def test_what_a_job_reads_is_marked(job):
    assert marked(config_of(job)) == set(INPUTS[job].split())


@pytest.mark.parametrize("job", [path.stem for path in job_files() if path.stem != "submit"])
def test_help_explains_every_key_of_every_job(job, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(config_of(job), ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for key in config_of(job).model_fields:
        assert key.replace("_", "-") in text or key in text, key


def test_a_dictionary_of_sections_that_is_left_out_is_told_by_its_key():
    with pytest.raises(ConfigError, match="sets: .*at least 1 item"):
        parse(config_of("evaluate"), ["--run", "a", "--test", "b"])


def test_a_key_that_a_section_of_the_file_lacks_is_told_with_its_place(tmp_path):
    (tmp_path / "c.yaml").write_text('run: a\ntest: b\nsets:\n  real: {slices: ["0:3"]}\n')
    with pytest.raises(ConfigError, match=r"c.yaml: sets.real.train: Field required"):
        parse(config_of("evaluate"), [str(tmp_path / "c.yaml")])


def test_generate_looks_for_weights_and_at_the_name_of_the_prompts(tmp_path):
    (tmp_path / "prompts.csv").touch()
    (tmp_path / "prompts.txt").touch()
    values = {"run": "a", "pairs": 1, "bundle": str(tmp_path), "prompts": str(tmp_path / "prompts.txt")}
    with pytest.raises(WeightsError, match="no complete bundle|missing"):
        GenerateConfig.model_validate(values).check_inputs()
    save_tiny_bundle(tmp_path / "bundle")
    values["bundle"] = str(tmp_path / "bundle")
    GenerateConfig.model_validate(values).check_inputs()
    with pytest.raises(DataError, match=r"prompts\.csv: prompts are not read from \.csv files"):
        GenerateConfig.model_validate({**values, "prompts": str(tmp_path / "prompts.csv")}).check_inputs()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "voc", "root": "nowhere"}, "root: there is no folder nowhere"),
        ({"dataset": "voc", "root": ".", "sbd": "nowhere"}, "sbd: there is no folder nowhere"),
        ({"dataset": "voc", "root": ".", "captions": "no.json"}, r"captions: there is no file or folder no\.json"),
        ({"dataset": "voc"}, "root: dataset voc needs the folder"),
        ({"dataset": "folder", "root": ".", "name": "own"}, "labels: dataset folder needs to know its classes"),
        ({"dataset": "folder", "root": ".", "name": "own", "labels": "no.yaml"}, r"labels: label space '.*no\.yaml'"),
        ({"dataset": "builtin", "sbd": "x"}, "sbd: only for dataset voc"),
    ],
)
def test_ingest_looks_for_the_data_set(changes, message):
    with pytest.raises(ConfigError, match=message):
        IngestConfig(run="a", **changes).check_inputs()


def test_what_is_made_or_on_the_hub_is_not_looked_for():
    IngestConfig(run="a").check_inputs()
    IngestConfig(run="a", dataset="huggingface", root="owner/name", labels="voc").check_inputs()


def save_run(folder, ids, labels=GARMENTS, **columns):
    save(folder, {**pairs(pair_id=ids), "class_ids": [[0]] * len(ids), "class_pixels": [[24]] * len(ids), **columns})
    (folder / "label_space.json").write_text(labels.to_json())
    return str(folder)


@pytest.mark.parametrize(
    ("job", "changes", "message"),
    [
        ("train_vae", {"slices": ("0:9",)}, "the slice 0:9 asks for more than its 3 pairs"),
        ("train_vae", {"validation": "other"}, "one number would mean two things"),
        ("train_vae", {"validation": "empty"}, "empty"),
        ("train_vae", {"workers": {"num": 99}}, "workers.num 99 must be at most optimisation.batch_size 4"),
        ("evaluate", {"sets": {"real": {"train": ("train",), "slices": ("0:9",)}}}, "the slice 0:9 asks for more"),
        ("evaluate", {"test": "other"}, "one number would mean two things"),
        ("evaluate", {"test": "train"}, "test and sets.real share 3 pairs"),
        ("evaluate", {"test": "copies"}, "test and sets.real have 1 pictures in common, by their content"),
        ("label", {"slice": "2:9"}, "the slice 2:9 asks for more"),
        ("label", {"validation": "other"}, "one number would mean two things"),
        ("export", {"validation": ("other",)}, "one number would mean two things"),
        ("export", {"train": ()}, "no pairs are given"),
    ],
)
def test_mistakes_are_told_before_ray_starts(tmp_path, monkeypatch, job, changes, message):
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "train", ["a", "b", "c"], image_digest=["1", "2", "3"])
    save_run(tmp_path / "held-out", ["x"], image_digest=["9"])
    save_run(tmp_path / "copies", ["y"], image_digest=["2"])
    save_run(tmp_path / "other", ["z"], VOC, image_digest=["8"])
    (tmp_path / "empty").mkdir()
    values: dict[str, dict[str, Any]] = {
        "train_vae": {"net": "annotation", "train": ("train",), "validation": "held-out"},
        "evaluate": {"sets": {"real": {"train": ("train",)}}, "test": "held-out"},
        "label": {"pairs": "train", "validation": "held-out"},
        "export": {"format": "coco", "train": ("train",)},
    }
    if job == "train_vae":
        values[job]["optimisation"] = {"num_examples": 8, "batch_size": 4, "learning_rate": 0.1}
    right = config_of(job).model_validate({"run": "a", **values[job]})
    wrong = config_of(job).model_validate({"run": "a", **values[job], **changes})

    right.check_inputs()
    with pytest.raises(JoDiffusionError, match=message):
        wrong.check_inputs()
