"""SampleUntilExact: masks without the classes of their prompts are drawn again, a bounded number of times."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.labels import GARMENTS as LABELS
from models.reverse import SamplerSettings
from pipeline.stages.redraw import SampleUntilExact
from pipeline.stages.sample import SamplePairs
from pipeline.tables.ids import redraw_seed
from tests.tiny import save_tiny_bundle

BAG, BOOT = LABELS.classes.index("bag"), LABELS.classes.index("boot")
REFINE = {"min_area_px": 4, "fill_holes_px": 0}


class Sample(SamplePairs):
    """In the place of SamplePairs: masks as `found` has them for a seed, and what was asked for."""

    def __init__(self, found, batch_size=4):
        self.found, self.batches = found, []
        sampler: Any = SimpleNamespace(
            settings=SimpleNamespace(batch_size=batch_size),
            bundle=SimpleNamespace(encoders=SimpleNamespace(labels=LABELS)),
        )
        self.sampler = sampler

    def __call__(self, batch):
        self.batches.append(batch["seed"].tolist())
        masks = np.zeros((len(batch["seed"]), 8, 8), np.uint8)
        errors = np.full(len(masks), "", object)
        for row, seed in enumerate(batch["seed"].tolist()):
            found = self.found(seed)
            errors[row] = "" if found else "non_finite_latent"
            for place, one in enumerate(found):
                masks[row, 4 * place : 4 * place + 3, :3] = one
        return {**batch, "mask": masks, "error": errors}


def rows(*prompts: str, **columns: np.ndarray) -> dict[str, np.ndarray]:
    return {"prompt": np.array(prompts, object), "seed": np.arange(10, 10 + len(prompts)), **columns}


def test_a_pair_is_drawn_until_its_mask_holds_what_its_prompt_names():
    third = redraw_seed(10, 2)
    sample = Sample(lambda seed: [BAG] if seed in (third, 11) else [BOOT])
    made = SampleUntilExact(sample, REFINE, redraws=5)(rows("a red bag", "a blue bag", "a green boot"))
    assert made["draws"].tolist() == [3, 1, 1]
    assert [sorted({*np.unique(mask)} - {0}) for mask in made["mask"]] == [[BAG], [BAG], [BOOT]]
    assert made["seed"].tolist() == [10, 11, 12], "a pair keeps its own seed: its draws follow from it"
    assert sample.batches == [[10, 11, 12], [redraw_seed(10, 1)], [third]]


def test_the_last_draw_stays_and_is_bounded():
    made = SampleUntilExact(Sample(lambda seed: [BOOT]), REFINE, redraws=2)(rows("a red bag"))
    assert made["draws"].tolist() == [3] and BOOT in made["mask"]


@pytest.mark.parametrize(("error", "told"), [("non_finite_latent", ""), ("sampler_failed", "sampler_failed")])
def test_a_draw_that_is_not_finite_leaves_the_one_before_it(error, told):
    class Failing(Sample):
        def __call__(self, batch):
            made = super().__call__(batch)
            return {**made, "error": np.where(made["error"] == "", made["error"], error)}

    second = redraw_seed(10, 1)
    made = SampleUntilExact(Failing(lambda seed: [] if seed == second else [BOOT]), REFINE, redraws=3)(rows("a bag"))
    assert made["error"].tolist() == [told] and made["draws"].tolist() == [2]
    assert (BOOT in made["mask"]) == (not told)


def test_draws_share_batches():
    sample = Sample(lambda seed: [BAG] if seed > 1000 else [BOOT], batch_size=4)
    made = SampleUntilExact(sample, REFINE, redraws=1)(rows(*["a bag"] * 6))
    assert [len(batch) for batch in sample.batches] == [4, 4, 4] and made["draws"].tolist() == [2] * 6


def test_no_rows_keep_their_columns():
    made = SampleUntilExact(Sample(lambda seed: [BAG]), REFINE, redraws=1)(rows())
    assert {"mask", "error", "draws", "seed"} <= made.keys() and all(len(values) == 0 for values in made.values())


def test_specks_that_refinement_takes_away_count_for_nothing():
    def found(seed):
        return [BAG]

    sample = Sample(found)
    speck = SampleUntilExact(sample, REFINE, redraws=1)

    class Specked(Sample):
        def __call__(self, batch):
            made = super().__call__(batch)
            made["mask"][:, 7, 7] = BOOT
            made["mask"][:, 0, 7] = LABELS.ignore_index
            return made

    speck.sample = Specked(found)
    assert speck(rows("a bag"))["draws"].tolist() == [1]
    assert SampleUntilExact(Specked(found), {**REFINE, "min_area_px": 0}, 1)(rows("a bag"))["draws"].tolist() == [2]


def test_what_names_no_class_or_fails_is_drawn_once_and_asked_classes_go_before_names():
    sample = Sample(lambda seed: [] if seed == 11 else [BOOT])
    sample_it = SampleUntilExact(sample, REFINE, redraws=3)
    assert sample_it(rows("something", "a bag"))["draws"].tolist() == [1, 1]
    asked = np.empty(2, object)
    asked[:] = [np.array([BOOT]), None]
    made = sample_it(rows("a bag", "a boot", prompt_class_ids=asked))
    assert made["draws"].tolist() == [1, 1]


def test_a_pair_is_the_same_alone_and_among_others(tmp_path):
    save_tiny_bundle(tmp_path)
    settings = SamplerSettings(steps=2, guidance=1.0, precision="float32", batch_size=4, confidence_threshold=0.0)
    draw = SampleUntilExact(SamplePairs(str(tmp_path), settings), REFINE, redraws=2)
    prompts = ["a red bag", "a blue dress", "a green boot", "a shirt", "a pink coat"]
    together = draw(rows(*prompts))
    assert (together["draws"] > 1).any(), "or nothing is shown"
    for row, prompt in enumerate(prompts):
        alone = draw({"prompt": np.array([prompt], object), "seed": np.array([10 + row])})
        assert alone["draws"][0] == together["draws"][row]
        for name in ("image", "mask"):
            assert np.array_equal(alone[name][0], together[name][row])


def test_draws_have_noise_of_their_own_and_the_first_is_the_pairs():
    seeds = [redraw_seed(4711, draw) for draw in range(50)]
    assert seeds[0] == 4711 and len(set(seeds)) == 50 and all(0 <= seed < 2**63 for seed in seeds)
    assert not {*seeds[1:]} & {redraw_seed(4712, draw) for draw in range(50)}


@pytest.mark.parametrize("redraws", [-1, 101])
def test_a_bound_is_asked_for(redraws, tmp_path):
    from pydantic import ValidationError

    from pipeline.generate import GenerateConfig

    with pytest.raises(ValidationError, match="redraws"):
        GenerateConfig(run="a", bundle="b", prompts="c.txt", pairs=1, redraws=redraws)
