"""Labels for pictures that have none: tried, judged on held-out pairs, written where they help, and else refused."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

import pipeline.label as verb
from models.labels import GARMENTS, VOC
from pipeline.base.errors import ConfigError, DataError, ShardError
from pipeline.base.log import log
from pipeline.evaluation.metrics import class_ious, confusion_matrix, mean_iou
from pipeline.evaluation.results import Proof
from pipeline.evaluation.spread import cells, to_bytes
from pipeline.label import LabelConfig, label
from pipeline.tables.conform import conform
from pipeline.tables.ids import labelled_pair_id
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import read_columns, read_shards
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import list_shards, write_table
from pipeline.training import proving
from pipeline.training.feed import Feed
from pipeline.training.judging import ALONE
from pipeline.training.labelling import Labelling, labelled, write_labels
from pipeline.training.order import ids_of
from pipeline.training.sets import Labels
from pipeline.training.tasks.segmenter import CELLS, SegmenterTask
from pipeline.training.worker import SCORES, WEIGHTS_FOLDER
from pipeline.verify import verify
from tests.tiny import save_pairs, save_tiny_bundle

KINDS = (GARMENTS.num_classes + 1, GARMENTS.ignore_index)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Twenty-four labelled pictures among sixty, and trainings that cost nothing: a segmenter misses as many columns of
    pixels as `wrong` says of its set, and all of the class that `blind` says. What was labelled is in `asked`."""
    found = SimpleNamespace(asked=[], written=[], wrong={ALONE: 10}, blind={}, trained=[])
    found.pairs = str(save_pairs(tmp_path / "pairs", 60, num_labelled=24))
    found.validation = str(save_pairs(tmp_path / "validation", 8, "validation"))

    def fit(task, config, run):
        name = config.run.split("/")[1].rsplit("-", 2)[0]
        found.trained.append((name, config))
        torch.manual_seed(zlib.crc32(config.run.encode()))  # no two see the same, so that no round is like another
        task.save(task.build(), {}, run.folder / WEIGHTS_FOLDER)
        held_out = Feed((config.validation,), task.columns, task.decode, slices=(config.validation_slice,))
        truth = held_out.head(config.validation_rows)["mask"].numpy()
        seen = truth.copy()
        wrong = found.wrong.get(name, 10)
        seen[..., :wrong] = (truth[..., :wrong] + 1) % KINDS[0]
        seen[truth == found.blind.get(name, -1)] = 0
        confusion = confusion_matrix(truth, seen, *KINDS)
        scores = {"miou": mean_iou(confusion), "pixel_accuracy": 0.5, "boundary_iou": 0.5, "training_s": 1.0}
        ious = zip(GARMENTS.classes, class_ious(confusion), strict=True)
        scores |= {f"iou/{name}": float(iou) for name, iou in ious if np.isfinite(iou)}
        (run.folder / CELLS).write_bytes(to_bytes(cells(truth, seen, *KINDS)))
        (run.folder / SCORES).write_text(json.dumps(scores))
        return scores

    def label_at_once(config: Labelling, task, digest):
        found.asked.append(config)
        if not list_shards(str(config.folder)):
            with monkeypatch.context() as patch:
                patch.setattr("pipeline.training.labelling.drive", driver(config, task, digest))
                write_labels(SimpleNamespace(folder=config.folder), config, task, digest)  # type: ignore[arg-type]

    def driver(config, task, digest):
        """In place of a graph of Ray: the stage itself."""

        def drive(run, job, left, find, **_):
            made_by, wanted = config.answers.made_by(digest), ids_of(config.pairs, config.slice, config.pictures)
            rows = read_shards([config.pairs])
            rows = rows.filter([one in set(wanted) for one in rows["pair_id"].to_pylist()])
            rows = rows if config.agree else rows.drop_columns(["mask"])
            nets = [task.load(one) for one in map(Path, (config.teacher, *config.voters))]

            def predict(image, weights):
                return task.answer(nets, torch.from_numpy(image), torch.from_numpy(weights))

            made = labelled(rows, task=task, predict=predict, answers=config.answers, made_by=made_by)
            ids = [labelled_pair_id(one, made_by) for one in rows["pair_id"].to_pylist()]
            made = made.set_column(made.schema.get_field_index("pair_id"), "pair_id", [ids])
            write_table(conform(made, PAIR), f"{run.folder}/shards")

        return drive

    monkeypatch.setattr(proving, "fit", fit)
    monkeypatch.setattr(proving, "label", label_at_once)
    monkeypatch.setattr("pipeline.training.order.LEAST_HELD_OUT", 5)
    found.folder = tmp_path
    return found


def config(place, **changes) -> LabelConfig:
    values = {
        "run": "labels", "runs": str(place.folder), "pairs": place.pairs, "width": 4, "batch_size": 4, "steps": 3,
        "seeds": 2, "holds": ("held", "free"), "ignore_below": (0.0, 0.2),
    }  # fmt: skip
    return LabelConfig.model_validate(values | changes)


@pytest.fixture
def written(place, monkeypatch):
    """What the job asks to be written in the end, without Ray."""
    monkeypatch.setattr(
        verb, "write_labels", lambda run, request, task, digest: place.written.append((request, digest))
    )
    monkeypatch.setattr(verb, "finish", lambda run: Manifest.scan(str(run.folder)))
    return place.written


def test_labels_that_are_all_void_are_told_as_such(place, written, capsys):
    label(config(place, holds=("free",), ignore_below=(0.999,), even_if_worse=True))
    assert "free, 0.999 sure: is sure of no pixel, so that its labels are all void: lower" in capsys.readouterr().out


def test_the_best_way_is_found_on_held_out_pairs_and_all_labelled_pairs_teach_in_the_end(place, written):
    place.wrong |= {"held": 4, "free": 8, "held, 0.2 sure": 6}

    label(config(place))

    ((request, _),) = written
    assert (request.hold, request.ignore_below, request.pictures) == ("held", 0.0, "unlabelled")
    assert request.slice == ":" and "/all labelled pairs-0-" in request.teacher
    names = [name for name, _ in place.trained]
    tried = ["held", "held, 0.2 sure", "free", "free, 0.2 sure"]
    assert list(dict.fromkeys(names)) == [ALONE, *tried, "all labelled pairs"]
    assert len({training.optimisation.num_steps for _, training in place.trained}) == 1
    part = place.trained[0][1].validation_slice
    held_out, learned = (set(ids_of(place.pairs, one, "labelled")) for one in (part, place.trained[0][1].slices[0]))
    assert (len(held_out), len(learned)) == (5, 19) and not held_out & learned
    unlabelled = set(ids_of(place.pairs, ":", "unlabelled"))
    for one in place.asked:
        ids = set(ids_of(one.pairs, one.slice, one.pictures))
        assert ids == (held_out if one.pictures == "labelled" else unlabelled)
    proof = Proof.model_validate_json((place.folder / "labels/proof.json").read_text())
    assert [row.name for row in proof.sets] == [ALONE, *tried]
    assert proof.sets[1].labels == 19 and proof.sets[1].unlabelled == 36
    assert Labels.of(place.pairs).count() == 24


def test_labels_that_do_not_help_are_refused_unless_they_are_wanted_all_the_same(place, written):
    place.wrong |= {"held": 11, "held, 0.2 sure": 10}

    with pytest.raises(DataError, match=r"not shown to help: with the best of them \(held, 0.2 sure\) .* alone 0\."):
        label(config(place, holds=("held",)))
    assert not written and (place.folder / "labels/proof.md").exists()

    trained = len(place.trained)
    label(config(place, holds=("held",), even_if_worse=True))

    assert written[0][0].ignore_below == 0.2
    assert written[0][0].hold == "held" and len(place.trained) > trained


def test_classes_that_labels_lose_are_told(place, written, caplog):
    """The mean over classes hides them: in a long tail labels gained five points, and lost the rarest class."""
    place.wrong |= {"held": 0}
    there = read_shards([place.pairs], ["class_ids"])["class_ids"].to_pylist()
    place.blind = {"held": max(one for ids in there for one in ids or ())}
    name = GARMENTS.classes[place.blind["held"]]

    label(config(place, holds=("held",), ignore_below=(0.0,)))

    proof = Proof.model_validate_json((place.folder / "labels/proof.json").read_text())
    assert f"some classes are seen worse than with the labelled pairs alone: {name} (0.00 for " in proof.warnings[-1]
    assert "--balanced True" in proof.warnings[-1] and proof.warnings[-1] in caplog.text


def test_rows_are_balanced_in_all_trainings(place, written):
    place.wrong |= {"held": 4, "held, round 2": 3}

    label(config(place, holds=("held",), rounds=2, balanced=True))

    assert written and all(training.balanced for _, training in place.trained)


def test_a_soft_hold_is_not_tried_where_captions_leave_nothing_out(place, written, monkeypatch):
    place.wrong |= {"held": 4, "soft": 3}
    settings = {"holds": ("held", "soft"), "ignore_below": (0.0,), "validation": place.validation}
    label(config(place, **settings))
    monkeypatch.setattr(proving, "left_unnamed", lambda *_: 0.1)
    label(config(place, run="others", **settings))
    assert [request.hold for request, _ in written] == ["held", "soft"] and written[1][0].unnamed == 0.1


def test_rounds_go_on_as_long_as_they_help(place, written):
    place.wrong |= {"held": 6, "held, round 2": 4, "held, round 3": 5}
    settings = {"holds": ("held",), "ignore_below": (0.0,), "validation": place.validation}

    label(config(place, rounds=5, **settings))

    ((request, _),) = written
    assert request.number == 2 and "/held-0-" in request.teacher, "whose labels the third round would have been of"
    assert [name for name, _ in place.trained if "round" in name][-1] == "held, round 3"
    assert "held, round 4" not in dict(place.trained)
    labels = [one for one in place.asked if one.pairs == place.pairs]
    assert ["/held, round 2-" in one.teacher for one in labels][-1], "a round is labelled by what the last one trained"


def test_voters_are_trainings_of_other_seeds(place, written):
    place.wrong |= {"held": 4}
    label(config(place, voters=3, holds=("held",), ignore_below=(0.0,), validation=place.validation))
    ((request, digest),) = written
    seeds = [folder.split(f"/{ALONE}-")[1][0] for folder in (request.teacher, *request.voters)]
    assert seeds == ["0", "1", "2"] and len(digest) == 16


def test_a_teacher_may_be_given(place, written):
    place.wrong |= {"held": 4}
    label(config(place, holds=("held",), ignore_below=(0.0,), validation=place.validation))
    teacher = written[0][0].teacher

    label(
        config(
            place,
            run="other",
            teacher={"weights": teacher},
            holds=("held",),
            ignore_below=(0.0,),
            validation=place.validation,
        )
    )

    assert written[1][0].teacher == teacher
    proof = Proof.model_validate_json((place.folder / "other/proof.json").read_text())
    assert proof.sets[1].labels is None, "what it has learned from is not known"


def test_a_teacher_that_learned_from_what_is_judged_on_is_refused(place, written, caplog):
    place.wrong |= {"held": 4}
    label(config(place, holds=("held",), ignore_below=(0.0,), validation=place.validation))
    given = {"weights": written[0][0].teacher}
    with pytest.raises(ConfigError, match=r"validation and teacher.weights .* share 5 pairs"):
        label(config(place, run="other", labelled=(place.pairs,), teacher=given))
    assert "says what it learned from" not in caplog.text
    (Path(given["weights"]).parent / "config.yaml").unlink()
    label(config(place, run="other", teacher=given, even_if_worse=True))
    assert "teacher.weights: nothing beside" in caplog.text


def test_generated_pairs_are_not_judged_on_though_no_others_are_given(place):
    rows = read_shards([place.validation])
    made = rows.set_column(rows.schema.get_field_index("origin"), "origin", pa.array(["synthetic"] * 8))
    write_table(made, f"{place.folder}/made/shards")
    GARMENTS.save(place.folder / "made" / "label_space.json")
    with pytest.raises(ConfigError, match="validation, a part of the labelled pairs .* holds generated pairs; give"):
        label(config(place, labelled=(f"{place.folder}/made",)))


def test_agreement_with_the_truth_is_of_what_the_teacher_answers_by_itself(place, written):
    pairs = str(save_pairs(place.folder / "masked", 6))
    settings = {"holds": ("free",), "ignore_below": (0.0,), "validation": place.validation, "even_if_worse": True}
    label(config(place, pairs=pairs, pictures="all", labelled=(place.pairs,), agree=True, **settings))
    assert {(one.pairs, one.agree) for one in place.asked} == {(pairs, True), (place.validation, False)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pairs": "validation"}, "has no unlabelled pictures in :; give another run, or --pictures all"),
        ({"slice": "0:30", "labelled": ("pairs",), "slices": ("0:20",)}, "too few to hold 5 out"),
        ({"validation": "pairs"}, r"validation and labelled .* share 24 pairs"),
        ({"validation": "pairs", "labelled": ("validation",), "pictures": "all"}, r"validation and pairs .* share"),
    ],
)
def test_what_cannot_be_judged_is_refused(place, changes, told):
    def placed(value):
        return str(place.folder / value) if value in ("pairs", "validation") else value

    changes = {
        key: tuple(map(placed, value)) if isinstance(value, tuple) else placed(value) for key, value in changes.items()
    }
    with pytest.raises(ConfigError, match=told):
        label(config(place, **changes))


def test_a_teacher_that_does_not_fit_is_told_before_anything_is_trained(place, tmp_path):
    with pytest.raises(ConfigError, match="no picture of .* has a mask; give another"):
        label(config(place, validation=str(save_pairs(tmp_path / "bare", 8, "validation", num_labelled=0))))
    other = SegmenterTask(GARMENTS, "unet_small", 8)
    other.save(other.build(), {}, tmp_path / "weights")
    with pytest.raises(ConfigError, match="weights: .* do not fit unet_small of width 4: .*width they"):
        label(config(place, teacher={"weights": str(tmp_path / "weights")}))
    save_tiny_bundle(tmp_path / "bundle")
    VOC.save(tmp_path / "bundle" / "label_space.json")
    with pytest.raises(DataError, match="teacher.pretrained: .* has other classes than the pictures"):
        label(config(place, teacher={"segmenter": "joint", "pretrained": str(tmp_path / "bundle")}))
    with pytest.raises(ShardError, match="asks for more than its 60 pairs"):
        label(config(place, labelled=(place.pairs,), slices=("0:900",)))
    assert not place.trained


def test_labels_of_the_held_out_pictures_and_of_their_teacher_teach_nothing(place, tmp_path, written):
    place.wrong |= {"held": 2, "free": 2}
    label(config(place, run="first", validation=place.validation, even_if_worse=True, ignore_below=(0.0,)))
    made = next(one for one in place.asked if one.pairs == place.validation)
    GARMENTS.save(made.folder / "label_space.json")
    with pytest.raises(ConfigError, match="validation: .* holds labels of a teacher; give real pairs"):
        label(config(place, run="second", validation=str(made.folder)))
    with pytest.raises(ConfigError, match="validation and .* share 8 pairs"):
        label(config(place, run="third", validation=place.validation, labelled=(str(made.folder),)))


def test_where_no_caption_names_a_class_free_alone_is_tried(place, written, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    rows = read_shards([place.pairs])
    for name, values in (("prompt", ["a nice photograph"] * 60), ("captions", [None] * 60)):
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    for shard in list_shards(place.pairs):
        Path(shard).unlink()
    write_table(rows, f"{place.pairs}/shards")
    label(config(place, validation=place.validation, even_if_worse=True, ignore_below=(0.0,)))
    assert {name for name, _ in place.trained} >= {"free"} and "held" not in {name for name, _ in place.trained}
    assert any("free is all that is tried" in text for text in said)


def test_keys_that_do_not_fit_are_refused(place):
    with pytest.raises(ValidationError, match="ignore_below: shares from 0"):
        config(place, ignore_below=(1.5,))
    with pytest.raises(ValidationError, match="slices has 1 entries"):
        config(place, labelled=(place.pairs, place.pairs), slices=(":",))
    with pytest.raises(ValidationError, match="voters are trained here"):
        config(place, teacher={"weights": place.pairs}, voters=2)


@pytest.mark.ray
def test_labels_are_written_verified_and_counted_as_those_of_their_teacher(ray_session, place):
    place.wrong |= {"held": 4}
    settings = {"holds": ("held",), "ignore_below": (0.0,), "rows_per_shard": 20}

    manifest = label(config(place, **settings))
    again = label(config(place, **settings))

    folder = str(place.folder / "labels")
    assert (manifest.num_pairs, manifest.num_unlabelled) == (36, 0) and again == manifest
    assert verify(folder, deep=True) == []
    (sampler,) = read_columns(list_shards(folder)[0])["sampler"].unique().to_pylist()
    assert json.loads(sampler)["hold"] == "held"
    assert Labels.of(folder).count() == 24
    rows = read_shards([folder])
    assert rows["confidence"].null_count == 0 and rows["origin"].unique().to_pylist() == ["labelled"]
