"""A cache over steps: reuses what its schedule says and nothing else, the same for every pair whatever its batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.jodiffusion import JoDiffusionConfig
from models.reverse import SamplerSettings, Student
from models.sampler import PairSampler
from models.step_cache import MAX_GAP, SCHEDULE, Recorder, Schedule, chosen, layer_costs, layers_of, read_schedule
from models.weights import Bundle, WeightsError
from tests.tiny import NET, SIZE_PX, save_tiny_bundle

SETTINGS = SamplerSettings(
    steps=4, solver="dpmsolver++2", guidance=2.0, guided_to=0.5, precision="float32", batch_size=4, step_cache="on"
)
NUM_LAYERS = 2 * (NET.num_layers + 1)
NOTHING = "." * NUM_LAYERS
REUSES = (NOTHING, "..rr..", "rr..r.", NOTHING)
"""Layers of both branches, of one branch where guidance has ended, and one that is two steps old."""


def schedule(reuse=REUSES, **changes) -> Schedule:
    values = {"steps": 4, "solver": "dpmsolver++2", "guided_from": 0.0, "guided_to": 0.5, "guidance": 2.0}
    return Schedule(**{**values, **changes}, reuse=tuple(reuse))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return replace(save_tiny_bundle(tmp_path_factory.mktemp("bundle")), schedule=schedule())


def test_a_schedule_that_reuses_nothing_changes_no_bit(bundle):
    plain = PairSampler(bundle, replace(SETTINGS, step_cache="off"))(["a red bag"], [1])
    computing = PairSampler(replace(bundle, schedule=schedule([NOTHING] * 4)), SETTINGS)(["a red bag"], [1])
    reusing = PairSampler(bundle, SETTINGS)(["a red bag"], [1])
    assert np.array_equal(plain.image, computing.image) and np.array_equal(plain.confidence, computing.confidence)
    assert not np.array_equal(plain.image, reusing.image)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_pair_is_the_same_alone_and_in_any_batch(bundle, precision):
    sampler = PairSampler(bundle, replace(SETTINGS, precision=precision))
    together = sampler(["a red bag", "a blue dress", "a green boot"], [1, 2, 3])
    alone = sampler(["a blue dress"], [2])
    shuffled = sampler(["a green boot", "a red bag", "a blue dress", "a red bag"], [3, 7, 2, 1])
    for image in (alone.image[0], shuffled.image[2]):
        assert np.array_equal(image, together.image[1])
    assert np.array_equal(alone.mask[0], together.mask[1])


def test_the_other_direction_reuses_too(bundle):
    masks = np.ones((2, SIZE_PX, SIZE_PX), np.uint8)
    sampler = PairSampler(bundle, SETTINGS)
    together = sampler.images_of(masks, ["a red bag", "a blue dress"], [1, 2])
    assert np.array_equal(sampler.images_of(masks[1:], ["a blue dress"], [2]).image[0], together.image[1])


def test_layers_run_when_the_schedule_says_so(bundle):
    sampler = PairSampler(bundle, SETTINGS)
    rows: list[list[int]] = [[] for _ in range(NUM_LAYERS)]
    for number, layer in enumerate(layers_of(sampler.bundle.net.transformer)):
        layer.register_forward_pre_hook(lambda _, given, number=number: rows[number].append(len(given[0])))
    sampler(["a red bag"], [1])
    sampler(["a red bag"], [1])  # nothing is left over from the first
    assert [one[: len(one) // 2] for one in rows] == [
        [8, 8, 4], [8, 8, 4], [8, 4, 4], [8, 4, 4], [8, 8, 4], [8, 8, 4, 4],
    ]  # fmt: skip
    assert all(one[: len(one) // 2] == one[len(one) // 2 :] for one in rows)


def test_what_is_two_steps_old_is_that_of_two_steps_before(bundle):
    """A layer that is reused twice gives what it gave when it ran, for the rows with text."""
    twice = replace(bundle, schedule=schedule([NOTHING, "r" + "." * 5, "r" + "." * 5, NOTHING]))
    sampler = PairSampler(twice, SETTINGS)
    seen = []
    first, second = layers_of(sampler.bundle.net.transformer)[:2]
    first.register_forward_hook(lambda *given: seen.append(given[2]))
    sampler(["a red bag"], [1])
    assert [len(one) for one in seen] == [8, 4]
    assert second is not first


def test_a_schedule_is_kept_in_a_bundle_and_is_no_part_of_its_digest(tmp_path):
    before = save_tiny_bundle(tmp_path)
    assert before.schedule is None and read_schedule(tmp_path) is None
    (tmp_path / SCHEDULE).write_text(schedule().to_json())
    loaded = Bundle.load(tmp_path)
    assert loaded.schedule == schedule() and loaded.digest == before.digest
    assert loaded.schedule.digest != schedule([NOTHING] * 4).digest
    (tmp_path / SCHEDULE).write_text(schedule().to_json().replace('"rr..r."', '"rr..r"'))
    with pytest.raises(WeightsError, match="holds no row of . and r for each of its 4 steps"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reuse": REUSES[:3]}, "no row of"),
        ({"reuse": ("r.....", *REUSES[1:])}, "reuses in its first step"),
        ({"reuse": REUSES, "guided_from": 0.25}, "reuses in step 1, the first with guidance"),
    ],
)
def test_a_wrong_schedule_is_told(changes, told):
    with pytest.raises(ValueError, match=told):
        schedule(**changes)
    assert schedule(guided_from=1.0, guided_to=1.0).first_guided == 4, "no step is guided"


def test_what_does_not_fit_is_told(bundle):
    resolved = SETTINGS.resolved(2.0, None, schedule())
    assert resolved.step_cache == schedule().digest
    assert resolved.resolved(2.0, None, schedule()) == resolved
    for settings, given, told in (
        (SETTINGS, None, "has no schedule of what is reused; make it with jobs.calibrate"),
        (replace(SETTINGS, steps=5), schedule(), "is for steps 4, not 5; sample so"),
        (resolved, schedule([NOTHING] * 4), f"asked for schedule {schedule().digest}, and the bundle has"),
    ):
        with pytest.raises(ValueError, match=told):
            settings.resolved(2.0, None, given)
    with pytest.raises(ValueError, match="leave out sampler.step_cache"):
        SamplerSettings(step_cache="on").resolved(1.0, Student(4, 2.0, "abc"), schedule())
    with pytest.raises(ValueError, match="on, off or the digest"):
        replace(SETTINGS, step_cache="yes")
    with pytest.raises(ValueError, match="is of 8 layers, and the network has 6"):
        PairSampler(replace(bundle, schedule=schedule(["." * 8] * 4)), SETTINGS)


def test_settings_are_recorded_as_before_where_nothing_is_reused():
    recorded = replace(SETTINGS, step_cache="off").recorded()
    assert "step_cache" not in recorded and recorded["steps"] == 4
    assert SETTINGS.resolved(2.0, None, schedule()).recorded()["step_cache"] == schedule().digest


def test_the_recorder_measures_relative_changes(bundle):
    sampler = PairSampler(bundle, replace(SETTINGS, step_cache="off"))
    recorder = Recorder(sampler.bundle.net.transformer)
    plain = PairSampler(bundle, replace(SETTINGS, step_cache="off"))(["a red bag"], [1])
    assert np.array_equal(sampler(["a red bag"], [1], recorder).image, plain.image), "it only looks"
    sampler(["a blue dress"], [2], recorder)
    assert {key[:2] for key in recorder.changes} == {(1, 1), (1, 2), (2, 2), (1, 3), (2, 3), (3, 3)}
    assert all(len(values) == 2 and min(values) > 0 for values in recorder.changes.values())


def test_rows_that_fill_up_a_batch_do_not_count_as_changes(bundle):
    def changes(batch_size, *batches):
        sampler = PairSampler(bundle, replace(SETTINGS, step_cache="off", batch_size=batch_size))
        recorder = Recorder(sampler.bundle.net.transformer)
        for batch in batches:
            sampler([prompt for prompt, _ in batch], [seed for _, seed in batch], recorder)
        return recorder.changes

    pairs = [("a red bag", 1), ("a blue dress", 2)]
    alone, filled = changes(1, *([pair] for pair in pairs)), changes(8, pairs)
    assert alone.keys() == filled.keys()
    for key, values in filled.items():
        assert values == pytest.approx(alone[key], rel=1e-2), key


def test_the_choice_leaves_the_share_that_was_asked_for():
    steps, costs = 10, [[1.0, 2.0]] * 10
    generator = torch.Generator().manual_seed(0)
    changes = {
        (gap, step, layer): gap * float(torch.rand((), generator=generator))
        for gap in range(1, MAX_GAP + 1)
        for step in range(gap, steps)
        for layer in range(2)
    }
    shares = []
    for share in (0.9, 0.6, 0.4):
        rows = chosen(changes, costs, 0, share)
        work = sum(cost for row in rows for sign, cost in zip(row, costs[0], strict=True) if sign == ".")
        assert work <= share * 30 and rows[0] == ".."
        assert "r" * (MAX_GAP + 1) not in "".join(row[0] for row in rows), "not older than is measured"
        shares.append(work)
    assert shares == sorted(shares, reverse=True)
    assert chosen(changes, costs, 4, 0.4)[4] == "..", "guidance begins there"


def test_memory_is_stated():
    paper = JoDiffusionConfig()
    row = "r" * len(layer_costs(paper))
    whole = schedule(["." * len(row), row, row, row])
    assert whole.kept_layers() == 62 and whole.bytes_per_row(paper) == 62 * 2129 * 1536 * 2
    assert schedule().kept_layers() == 4, "the third and fourth wait while the first two are kept for the next step"
