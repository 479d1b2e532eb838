"""What a row of a batch draws is its own."""

from __future__ import annotations

import torch

from models.draws import Draws


def test_a_row_draws_the_same_whoever_holds_it():
    whole, part = Draws(1, 5, range(8)), Draws(1, 5, range(3, 6))
    for draw in (
        lambda draws: draws.normal((2, 3)),
        lambda draws: draws.uniform(),
        lambda draws: draws.whole(1000),
        lambda draws: torch.tensor(draws.seeds()),
        lambda draws: draws.normal(),
    ):
        assert torch.equal(draw(whole)[3:6], draw(part))


def test_every_seed_step_and_row_draws_something_else():
    drawn = torch.cat([Draws(seed, step, range(3)).normal() for seed in (0, 1) for step in (0, 1)])
    assert len(drawn.unique()) == 12


def test_draws_are_of_their_distributions():
    draws = Draws(0, 0, range(2000))
    normal, whole = draws.normal((5,)), draws.whole(10)
    assert abs(normal.mean()) < 0.05 and abs(normal.std() - 1) < 0.05
    assert torch.equal(whole.unique(), torch.arange(10.0))
