"""Every configuration that ships loads, and a mistake in one is explained."""

from __future__ import annotations

import importlib
import re
import shlex
import typing
from pathlib import Path
from typing import Any

import pytest

from jobs.demo import DemoConfig
from jobs.paper_table import PaperTableConfig
from pipeline.base.command_line import load, parse
from pipeline.base.errors import ConfigError
from pipeline.base.places import as_given, places
from pipeline.caption import CaptionConfig
from pipeline.encode import EncodeConfig
from pipeline.evaluate import EvaluateConfig
from pipeline.export import ExportConfig
from pipeline.generate import GenerateConfig
from pipeline.ingest import IngestConfig
from pipeline.label import LabelConfig
from pipeline.plan_prompts import PromptsConfig
from pipeline.report import ReportConfig
from pipeline.training.tasks.clip import ClipConfig
from pipeline.training.tasks.distill import DistillConfig
from pipeline.training.tasks.joint import JointConfig
from pipeline.training.tasks.latents import VAEConfig

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
DEMO = CONFIGS / "demo"
TYPES: dict[str, Any] = {
    "annotation_vae": VAEConfig,
    "baseline": EvaluateConfig,
    "caption": CaptionConfig,
    "demo": DemoConfig,
    "encode": EncodeConfig,
    "export": ExportConfig,
    "generate": GenerateConfig,
    "image_vae": VAEConfig,
    "image_decoder": VAEConfig,
    "ingest": IngestConfig,
    "distill": DistillConfig,
    "joint": JointConfig,
    "label": LabelConfig,
    "long_tail": EvaluateConfig,
    "plan_prompts": PromptsConfig,
    "report": ReportConfig,
    "evaluate": EvaluateConfig,
    "few_labels": EvaluateConfig,
    "generators": EvaluateConfig,
    "segmenters": EvaluateConfig,
    "unnamed": EvaluateConfig,
    **{f"table{number}": PaperTableConfig for number in range(1, 6)},
    "clip": ClipConfig,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_config_loads(path):
    assert load(TYPES[path.stem], path).dump()


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*/table*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_the_papers_networks_begin_with_weights_that_fit_them(path):
    """No download: a ResNet-D, whose shortcuts are others, is known by its name."""
    known = {"deeplabv3": r"timm/resnet{}c\.gluon_in1k", "mask2former_r": r"microsoft/resnet-{}"}
    for name, one in load(PaperTableConfig, path).segmenters.items():
        kind = next((kind for kind in known if name.startswith(kind)), "")
        assert not kind or re.fullmatch(known[kind].format(name.rpartition("r")[2]), one.pretrained), name
        assert kind or one.pretrained == "microsoft/swin-small-patch4-window7-224"


def test_overrides_merge_sections_but_replace_the_users_own_names():
    config = load(GenerateConfig, DEMO / "generate.yaml", {"sampler": {"steps": 7}})
    assert (config.sampler.steps, config.sampler.batch_size) == (7, 32)
    proof = load(EvaluateConfig, DEMO / "evaluate.yaml", {"sets": {"mine": ["a"]}})
    assert list(proof.sets) == ["mine"] and as_given(proof.sets["mine"].train[0]) == "a"


def test_command_line_overrides_the_file():
    config = parse(GenerateConfig, [str(DEMO / "generate.yaml"), "--sampler.steps", "7", "--pairs", "12"])
    assert (config.sampler.steps, config.pairs, config.sampler.batch_size) == (7, 12, 32)


def test_a_required_key_may_come_from_the_command_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: a\nbundle: b\nprompts: c\n")
    assert parse(GenerateConfig, [str(path), "--pairs", "3"]).pairs == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: a\nprompst: b\n", "unknown key prompst; did you mean prompts?"),
        ("run: a\nsampler: {stpes: 3}\n", "unknown key sampler.stpes; did you mean sampler.steps?"),
        ("run: a\nbundle: b\nprompts: c\npairs: many\n", "pairs: Input should be a valid integer"),
        ("run: a\nbundle: b\nprompts: c\npairs: 0\n", "pairs: Input should be greater than or equal to 1"),
        ("run: a\nbundle: b\nprompts: c\n", "pairs: Field required"),
        ("- a\n", "a config is a list of `key: value` lines"),
        ("run: [\n", "not valid YAML"),
    ],
)
def test_mistakes_in_a_file_are_explained(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(GenerateConfig, path)
    assert message in str(error.value) and str(path) in str(error.value)
    if "required" not in message:  # which the command line may still give
        with pytest.raises(ConfigError) as error:
            parse(GenerateConfig, [str(path)])
        assert message in str(error.value) and str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read the config"):
        load(GenerateConfig, tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("arguments", [["--pairs", "many"], ["--piars", "3"], []])
def test_mistakes_on_the_command_line_exit_with_2_and_no_trace(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(GenerateConfig, ["--run", "a", "--bundle", "b", "--prompts", "c", *arguments])
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_explains_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(GenerateConfig, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "--sampler.guidance" in text and "Folder of the weights, a path or a URL." in text


def test_a_wrong_value_on_the_command_line_is_one_sentence():
    with pytest.raises(ConfigError, match=r"^command line: pairs: .*greater than or equal to 1 \(got -4\)$"):
        parse(GenerateConfig, [str(DEMO / "generate.yaml"), "--pairs", "-4"])


def test_every_command_for_ones_own_pictures_is_understood(monkeypatch, tmp_path):
    """docs/own-data.md, whose jobs tests/test_walkthrough.py runs with others' data."""
    text = (CONFIGS.parents[1] / "docs" / "own-data.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^\$ python -m jobs\.(.*)$", text, flags=re.MULTILINE)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(CONFIGS.parent)
    made: set[str] = {"data/mine", "data/mine-validation", "data/mine-test", "mine.yaml", "thu-ml/unidiffuser-v1"}
    assert len(commands) > 10
    for job, *arguments in commands:
        if job == "start" or arguments[0].startswith("configs/"):  # tests/test_own_data.py runs these
            continue
        kind = typing.get_type_hints(importlib.import_module(f"jobs.{job}").main)["config"]
        monkeypatch.setattr(kind, "check_inputs", lambda config: None)
        config = parse(kind, arguments)
        makes = as_given(config.bundle) if job == "import_weights" else f"runs/{config.run}"
        read = {as_given(place) for key, place in places(config) if key != "runs"} - {makes}
        own = {one for one in read if one.startswith(("runs/", "data/", "bundles/"))}
        missing = {one for one in own if not any(one == there or one.startswith(f"{there}/") for there in made)}
        assert not missing, f"{job} reads {sorted(missing)}, which nothing has made yet"
        made.add(makes)


def commands_of(page: str) -> list[list[str]]:
    """Words of the commands of a page that stand alone on a line, without those that leave something open."""
    lines = re.sub(r"\\\n\s*", "", page).splitlines()
    found = [re.match(r"(?:    |\$ )?python -m jobs\.(\w+ .*)$", line) for line in lines]
    split = [shlex.split(one[1], comments=True) for one in found if one]
    return [words for words in split if not {"CONFIG.yaml", "..."} & set(words)]


PAGES = sorted((CONFIGS.parents[1] / "docs").glob("*.md"))


def test_commands_are_found_in_the_docs():
    assert sum(len(commands_of(page.read_text())) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_in_the_docs_is_one(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(CONFIGS.parent)
    for job, *arguments in commands_of(page.read_text()):
        if job == "submit" or arguments[0].startswith("configs/"):
            continue  # passed on to another job; written by jobs.start
        kind = typing.get_type_hints(importlib.import_module(f"jobs.{job}").main)["config"]
        with monkeypatch.context() as patch:
            patch.setattr(kind, "check_inputs", lambda config: None)
            try:
                parse(kind, arguments)
            except SystemExit:
                pytest.fail(f"{page.name}: {job} {shlex.join(arguments)}")
