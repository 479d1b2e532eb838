"""The rows of a proof: equal steps for all, labels counted, what a row builds on made first, choices on validation."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from models.labels import GARMENTS
from pipeline.base.errors import ConfigError, DataError
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.evaluation.results import Proof, TrainedSet
from pipeline.tables.ids import labelled_pair_id
from pipeline.tables.rows import read_columns, read_shards
from pipeline.tables.shards import list_shards, write_table
from pipeline.training import proving
from tests.pipeline.fabricated import fit_at_once
from tests.tiny import save_pairs


def prepared(folder, patch) -> SimpleNamespace:
    """Pairs, and a proof whose trainings and labels cost nothing; what was asked for is in `asked` and `labelled`."""
    place = SimpleNamespace(asked=[], labelled=[], folder=folder)
    for name, num, split in (("real", 24, "train"), ("validation", 8, "validation"), ("test", 8, "test")):
        setattr(place, name, str(save_pairs(folder / name, num, split)))
    made = read_shards([place.validation])
    column = made.schema.get_field_index("origin")
    origin = pa.array(["synthetic"] * made.num_rows).cast(made.schema.field(column).type)
    synthetic = made.set_column(column, made.schema.field(column), origin)
    ids = pa.array([one[::-1] for one in made["pair_id"].to_pylist()])
    synthetic = synthetic.set_column(0, made.schema.field(0), ids)
    write_table(synthetic, f"{folder}/synthetic/shards")
    GARMENTS.save(folder / "synthetic" / "label_space.json")
    place.synthetic = str(folder / "synthetic")

    def fit(task, config, run):
        place.asked.append((task, config))
        return fit_at_once(task, config, run)

    def label(config, task, digest):
        place.labelled.append(config)
        if not config.folder.exists():
            save_pairs(config.folder, 6, "train")

    patch.setattr(proving, "fit", fit)
    patch.setattr(proving, "label", label)
    return place


@pytest.fixture
def place(tmp_path, monkeypatch):
    return prepared(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same, and the proof of all kinds of sets."""
    with pytest.MonkeyPatch.context() as patch:
        place = prepared(tmp_path_factory.mktemp("whole"), patch)
        place.proof = evaluate(config(place))
    return place


def config(place, **changes) -> EvaluateConfig:
    sets = {
        "real": {"train": [place.real], "slices": ["0:8"]},
        "synthetic": [place.synthetic],
        "both": {"train": [place.real, place.synthetic], "slices": ["0:8", ":"], "shares": [3, 1]},
        "pretrained": {"train": [place.real], "slices": ["0:8"], "after": "synthetic"},
        "held": {"train": [place.real] * 2, "slices": ["0:8", "8:"], "shares": [1, 1], "masks": ["own", "held"]},
        "strong": {"train": [place.real], "slices": ["0:8"], "augmentation": "strong"},
        "copy_paste": {"train": [place.real], "slices": ["0:8"], "augmentation": "copy_paste"},
        "all": {"train": [place.real]},
    }  # fmt: skip
    values = {
        "run": "proof", "runs": str(place.folder / "runs"), "sets": sets, "test": place.test, "steps": 7, "width": 4,
        "batch_size": 4, "seeds": 2, "generator_labels": 24,
    }  # fmt: skip
    return EvaluateConfig.model_validate({**values, **changes})


def rows_of(proof: Proof) -> dict[str, TrainedSet]:
    return {row.name: row for row in proof.sets}


def test_every_row_has_as_many_steps_and_tells_its_labels(whole):
    rows = rows_of(whole.proof)
    assert {row.steps for row in rows.values()} == {7}
    facts = {name: (row.labels, row.unlabelled, row.pairs) for name, row in rows.items()}
    assert facts == {
        "real": (8, 0, 8),
        "synthetic": (24, 0, 8),
        "both": (24, 0, 16),
        "pretrained": (24, 0, 16),
        "held": (8, 16, 24),
        "strong": (8, 0, 8),
        "copy_paste": (8, 0, 8),
        "all": (24, 0, 24),
    }
    by_run: dict[str, int] = {}
    for _, training in whole.asked:
        if "-first-" not in training.run:
            by_run[training.run.split("/")[1]] = training.optimisation.num_steps
    halves = {run: steps for run, steps in by_run.items() if run.startswith("pretrained")}
    assert set(halves.values()) == {4} and {steps for run, steps in by_run.items() if run not in halves} == {7}
    assert [one.optimisation.num_steps for _, one in whole.asked if "-first-" in one.run] == [3, 3]


def test_rows_of_one_seed_begin_with_equal_weights_but_for_those_that_come_after_another(whole):
    initial = {training.run.split("/")[1].rsplit("-", 2)[0]: task.initial for task, training in whole.asked}
    assert {name for name, weights in initial.items() if weights} == {"pretrained"}
    assert "pretrained-first-1-" in initial["pretrained"]
    assert {training.seed for _, training in whole.asked} == {0, 1}


def test_each_seed_has_a_teacher_of_its_own_whose_labels_serve_all_its_rows(whole):
    assert len(whole.labelled) == 2 and [one.slice for one in whole.labelled] == ["8:", "8:"]
    assert [one.hold for one in whole.labelled] == ["held", "held"]
    teachers = [one.teacher for one in whole.labelled]
    assert all(f"proof/real-{seed}-" in teacher for seed, teacher in enumerate(teachers))
    held = next(training for _, training in whole.asked if "/held-0-" in training.run)
    assert held.train == (whole.real, str(whole.labelled[0].folder)) and held.slices == ("0:8", ":")


def test_differences_are_of_equal_seeds_and_equal_test_units(whole):
    proof = whole.proof
    first, *others = proof.sets
    assert first.difference is None and first.interval is not None
    low, high = first.interval
    assert low <= sum(first.miou) / 2 <= high
    for row in others:
        assert row.difference is not None and row.difference.interval is not None
        assert row.difference.miou == [one - other for one, other in zip(row.miou, first.miou, strict=True)]
    assert (proof.test.units, proof.test.unit) == (8, "pictures")
    assert all(len(row.boundary_iou) == len(row.seconds) == 2 for row in proof.sets)
    assert Proof.model_validate_json((whole.folder / "runs" / "proof" / "proof.json").read_text()) == proof


def test_a_training_goes_on_with_checkpoints_at_other_distances(place):
    """Earlier releases saved none before the end."""
    real = config(place, sets={"real": {"train": [place.real], "slices": ["0:8"]}}, seeds=1)
    before = evaluate(real)
    (_, training) = place.asked[0]
    file = training.folder / "config.yaml"
    text = file.read_text()
    assert "checkpoint_examples: 20000\n" in text
    file.write_text(text.replace("checkpoint_examples: 20000\n", "checkpoint_examples: 28\n"))
    assert evaluate(real).sets[0].trainings == before.sets[0].trainings


def test_steps_and_rate_are_chosen_on_validation_with_the_first_set_alone(place, monkeypatch, capsys):
    reached = {(4, 1e-3): 0.30, (4, 3e-3): 0.35, (8, 1e-3): 0.50, (8, 3e-3): 0.40, (16, 1e-3): 0.504, (16, 3e-3): 0.1}
    sets = {"real": {"train": [place.real], "slices": ["0:8"]}, "all": [place.real]}
    tried = {"validation": place.validation, "try_steps": [16, 4, 8], "try_learning_rates": [1e-3, 3e-3]}
    chosen = config(place, sets=sets, steps=0, seeds=1, **tried)
    within = proving.fit

    def fit(task, training, run):
        if training.validation == place.validation:
            assert "/choice-" in training.run and training.train == (place.real,)
            recipe = training.optimisation
            return {"miou": reached[recipe.num_steps, recipe.learning_rate]}
        return within(task, training, run)

    monkeypatch.setattr(proving, "fit", fit)
    proof = evaluate(chosen)
    assert {row.steps for row in proof.sets} == {8}, "sixteen are better by less than what counts"
    told = "8 steps, learning rate 0.001 (mIoU 0.5000: as good as 0.5040 with 16 steps, to within 0.0050)"
    assert told in capsys.readouterr().out
    recipes = {one.optimisation.learning_rate for _, one in place.asked if one.validation == place.test}
    assert recipes == {1e-3}
    assert [(one.steps, one.learning_rate, one.mean) for one in proof.choices] == [
        (*key, miou) for key, miou in sorted(reached.items())
    ]
    assert not any("rising" in text for text in proof.warnings)
    reached[16, 1e-3] = 0.52
    assert any("it may not have stopped rising" in text for text in evaluate(chosen).warnings)
    reached[16, 1e-3], reached[16, 3e-3] = 0.504, 0.51
    several = evaluate(chosen.model_copy(update={"try_seeds": 2, "run": "several"}))
    assert [len(one.miou) for one in several.choices] == [2] * 6


def test_the_augmentation_is_chosen_on_validation_for_all_rows_that_name_none(place, monkeypatch):
    sets = {
        "real": {"train": [place.real], "slices": ["0:8"]},
        "all": [place.real],
        "plain": {"train": [place.real], "slices": ["0:8"], "augmentation": "usual"},
    }
    tried = {"validation": place.validation, "try_augmentations": ["usual", "mild", "copy_paste"]}
    reached = {"usual": 0.5, "mild": 0.52, "copy_paste": 0.524}
    within = proving.fit

    def fit(task, training, run):
        way = "mild" if task.augmentation else "copy_paste" if task.copy_paste else "usual"
        return {"miou": reached[way]} if training.validation == place.validation else within(task, training, run)

    monkeypatch.setattr(proving, "fit", fit)
    proof = evaluate(config(place, sets=sets, seeds=1, **tried))

    assert {row.name: row.trained_on["augmentation"] for row in proof.sets} == {
        "real": "mild",  # copy_paste is better by less than what counts
        "all": "mild",
        "plain": "usual",
    }
    tested = [task.augmentation for task, one in place.asked if one.validation == place.test]
    assert [one is not None for one in tested] == [True, True, False]
    assert {one.augmentation: one.mean for one in proof.choices} == reached


def test_a_training_serves_again_where_its_row_has_another_name(place):
    before = evaluate(config(place, seeds=1))
    asked = len(place.asked)
    strong = {"train": [place.real], "slices": ["0:8"], "augmentation": "strong"}
    sets = {"first": {"train": [place.real], "slices": ["0:8"]}, "varied": strong}

    after = evaluate(config(place, sets=sets, seeds=1))

    assert len(place.asked) == asked + 2 and {one.run for _, one in place.asked[asked:]} <= {
        one.run for _, one in place.asked[:asked]
    }, "the same runs are asked for, which are there"
    old = rows_of(before)
    assert [row.miou for row in after.sets] == [old["real"].miou, old["strong"].miou]
    assert after.sets[1].trainings == old["strong"].trainings


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ({"real": {"train": ["a"], "slices": ["0:1", "1:"]}}, "slices has 2 entries, but train has 1 folders"),
        ({"real": {"train": ["a", "b"], "shares": [1, 0]}}, "shares must be more than 0"),
        ({"real": {"train": ["a"], "masks": ["held"]}}, "the first set has the masks of its pairs alone"),
        ({"real": ["a"], "b": {"train": ["a"], "after": "c"}}, "after 'c' must name another set"),
        ({"real": ["a"], "b": {"train": ["a"], "after": "b"}}, "after 'b' must name another set"),
        ({"real": {"train": ["a"], "slices": ["5"]}}, "'5' is no slice"),
        ({"real": {"train": ["a"], "augmentation": "weak"}}, "augmentation"),
    ],
)
def test_sets_that_mean_nothing_are_refused(sets, told):
    with pytest.raises(ValidationError, match=told):
        EvaluateConfig.model_validate({"run": "proof", "sets": sets, "test": "t"})


def test_a_half_on_a_teachers_labels_is_on_its_labels_and_not_on_the_true_masks(place):
    sets = {
        "real": {"train": [place.real], "slices": ["0:8"]},
        "held": {"train": [place.real], "slices": ["8:"], "masks": ["held"]},
        "held, then real": {"train": [place.real], "slices": ["0:8"], "after": "held"},
    }
    proof = evaluate(config(place, sets=sets, seeds=1))
    assert {name: row.labels for name, row in rows_of(proof).items()} == {"real": 8, "held": 8, "held, then real": 8}
    (begun,) = [training for _, training in place.asked if "then real-first" in training.run]
    assert begun.train == (str(place.labelled[0].folder),) and begun.slices == (":",)
    assert rows_of(proof)["held, then real"].seconds == [3.0], "of both halves and of the teacher"
    assert rows_of(proof)["held"].seconds == [2.0], "of the teacher too"


def test_labels_are_those_of_all_that_a_row_stands_on_each_once(place):
    sets = {
        "real": {"train": [place.real], "slices": ["0:8"]},
        "synthetic": [place.synthetic],
        "both": {"train": [place.real, place.synthetic], "slices": ["4:12", ":"]},
    }
    known = {"generator_labels": 0, "generator_train": [place.real], "generator_slices": ["0:10"]}
    proof = evaluate(config(place, sets=sets, seeds=1, **known))
    assert {name: row.labels for name, row in rows_of(proof).items()} == {"real": 8, "synthetic": 10, "both": 12}
    assert sum(": not equal" in text for text in proof.warnings) == 2
    unknown = evaluate(config(place, sets=sets, seeds=1, generator_labels=0, run="unknown"))
    assert rows_of(unknown)["synthetic"].labels is None
    assert sum("it is not known how many labels" in text for text in unknown.warnings) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sets": {"real": ["{test}", "{synthetic}"]}}, "test and sets.real share 8 pairs"),
        ({"validation": "{real}", "try_steps": [4]}, "validation and sets.real share 8 pairs"),
        ({"generator_train": ["{test}"]}, "test and generator_train .* share 8 pairs"),
        ({"test": "{synthetic}"}, "test: .* holds generated pairs; give real pairs that people"),
        ({"validation": "{synthetic}", "try_steps": [4]}, "validation: .* holds generated pairs; give real pairs"),
    ],
)
def test_pairs_that_something_learned_from_are_not_tested_on(place, changes, told):
    def filled(value):
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        return value.format(**vars(place)) if isinstance(value, str) else value

    with pytest.raises(ConfigError, match=told):
        evaluate(config(place, **filled(changes)))
    assert not place.asked, "before anything is trained"


def save_labels(place, pairs: str) -> str:
    """What a teacher of the real pairs made of some others."""
    labels = read_shards([pairs])
    ids = pa.array([labelled_pair_id(one, "{}") for one in labels["pair_id"].to_pylist()])
    for name, value in (("pair_id", ids), ("origin", pa.array(["labelled"] * labels.num_rows))):
        column = labels.schema.get_field_index(name)
        labels = labels.set_column(column, labels.schema.field(column), value.cast(labels.schema.field(column).type))
    write_table(labels, f"{place.folder}/labels/shards")
    GARMENTS.save(place.folder / "labels" / "label_space.json")
    (place.folder / "labels" / "config.yaml").write_text(f"job: label\npairs: {pairs}\nlabelled: [{place.real}]\n")
    return str(place.folder / "labels")


def test_pictures_that_a_teacher_labelled_are_told_of_rows_and_generators(place, capsys):
    made = save_labels(place, place.validation)
    sets = {"real": [place.real], "labels": [place.real, made], "synthetic": [place.synthetic]}
    proof = evaluate(config(place, sets=sets, seeds=1, generator_train=[place.real, made], generator_labels=0))
    rows = rows_of(proof)
    assert {name: row.unlabelled for name, row in rows.items()} == {"real": 0, "labels": 8, "synthetic": 8}
    assert len({row.labels for row in rows.values()}) == 1, "the teacher's are the real pairs'"
    told = capsys.readouterr().out
    assert "mIoU" in told and "+-" not in told, "one seed has no spread"


def test_pictures_of_the_test_are_known_under_the_names_that_a_teacher_gave_them(place):
    made = save_labels(place, place.test)
    with pytest.raises(ConfigError, match=r"test and sets.made share 8 pairs"):
        evaluate(config(place, sets={"real": [place.real], "made": [made]}, seeds=1))
    with pytest.raises(ConfigError, match=r"test: .* holds labels of a teacher; give real pairs that people"):
        evaluate(config(place, sets={"real": [place.real]}, test=made, seeds=1))
    (place.folder / "labels" / "config.yaml").write_text(
        f"job: label\npairs: {place.real}\nlabelled: [{place.validation}]\n"
    )
    with pytest.raises(ConfigError, match=r"validation and sets.made share 8 pairs"):  # its teacher learned from them
        tried = {"validation": place.validation, "try_steps": [4]}
        evaluate(config(place, sets={"real": [place.real], "made": [made]}, seeds=1, **tried))
    assert not place.asked


def test_pictures_that_a_generator_saw_without_labels_are_told(place):
    sets = {
        "real": {"train": [place.real], "slices": ["0:8"]},
        "synthetic": [place.synthetic],
        "first synthetic": {"train": [place.real], "slices": ["0:8"], "after": "synthetic"},
        "held": {"train": [place.real] * 2, "slices": ["0:8", "8:"], "masks": ["own", "held"]},
        "first held": {"train": [place.real], "slices": ["0:8"], "after": "held"},
    }
    proof = evaluate(config(place, sets=sets, seeds=1, generator_pictures=100))
    told = {name: row.unlabelled for name, row in rows_of(proof).items()}
    assert told == {"real": 0, "synthetic": 100, "first synthetic": 100, "held": 16, "first held": 16}
    assert not any("rows hold generated pairs" in text for text in proof.warnings), "one alone is not the best of some"


def test_validation_masks_that_are_void_are_told(place, monkeypatch):
    monkeypatch.setattr(proving, "fit", lambda *_: {"miou": float("nan")})
    for tried in ({"try_steps": [4, 8]}, {"try_augmentations": ["usual", "mild"]}):
        with pytest.raises(DataError, match="validation: no pixel of the held-out masks .* masks as `validation`"):
            evaluate(config(place, sets={"real": [place.real]}, seeds=1, validation=place.validation, **tried))


def test_what_is_tried_twice_counts_once(place):
    tried = {"try_steps": [4, 4], "try_learning_rates": [5e-3, 5e-3, 0], "try_augmentations": ["usual", "usual"]}
    proof = evaluate(config(place, sets={"real": [place.real]}, seeds=1, validation=place.validation, **tried))
    assert [(one.steps, len(one.miou)) for one in proof.choices] == [(4, 1), (4, 1)]


def test_a_learning_rate_at_the_edge_of_two_is_told(place):
    tried = {"validation": place.validation, "try_steps": [4], "try_learning_rates": [1e-3, 3e-3]}
    proof = evaluate(config(place, sets={"real": [place.real]}, steps=0, seeds=1, **tried))
    assert any("is at the edge of those that were tried" in text for text in proof.warnings)


def test_changed_masks_under_the_same_ids_are_trained_on_anew(place):
    chosen = config(place, sets={"real": [place.real]}, seeds=1)
    evaluate(chosen)
    before = place.asked[-1][1].run
    (shard, *_) = list_shards(place.real)
    rows = read_columns(shard)
    other = rows.set_column(
        rows.schema.get_field_index("mask"), rows.schema.field("mask"), rows["mask"].take([0] * len(rows))
    )
    pq.write_table(other, shard)
    evaluate(chosen)
    assert place.asked[-1][1].run != before


def test_what_is_chosen_on_is_never_what_is_tested_on(place):
    with pytest.raises(ValidationError, match="what is chosen on it would be tested on it too"):
        config(place, validation=place.test, try_steps=[4])
    with pytest.raises(ValidationError, match="validation goes with try_steps"):
        config(place, try_steps=[4])


def test_trainings_run_side_by_side_once_what_they_build_on_is_there(place, monkeypatch):
    events: list[tuple[str, str]] = []
    within, labels = proving.fit, proving.label
    both_run = threading.Barrier(2)

    def fit(task, training, run):
        name = training.run.split("/")[1].rsplit("-", 1)[0]
        events.append(("begins", name))
        if training.run.startswith("both/pretrained-first-"):
            both_run.wait(60)  # breaks where one waits for the other to end
        scores = within(task, training, run)
        events.append(("ends", name))
        return scores

    def label(config, task, digest):
        assert threading.current_thread() is threading.main_thread(), "a graph listens for Ctrl-C"
        events.append(("labels", config.run))
        labels(config, task, digest)

    monkeypatch.setattr(proving, "fit", fit)
    monkeypatch.setattr(proving, "label", label)
    whole = config(place)
    sets = {name: whole.sets[name] for name in ("real", "synthetic", "pretrained", "held")}
    both = evaluate(config(place, at_once=3, run="both", sets=sets))
    made = [name for event, name in events if event == "begins"]
    assert len(made) == len(set(made)) == 10
    running, most = 0, 0
    for event, _ in events:
        running += {"begins": 1, "ends": -1, "labels": 0}[event]
        most = max(most, running)
    assert 2 <= most <= 3
    first_labels = next(number for number, (event, _) in enumerate(events) if event == "labels")
    assert {("ends", "real-0"), ("ends", "real-1")} <= set(events[:first_labels])
    assert events.index(("ends", "pretrained-first-0")) < events.index(("begins", "pretrained-0"))
    assert [row.name for row in both.sets] == list(sets)
