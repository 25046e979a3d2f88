"""Titans and related cores: every use of the inner memory obeys the laws; options; edge cases."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores, tree
from rlmem.cores.attention import sinusoids
from rlmem.errors import UsageError
from tests.cores.common import Data, T, data, fold, run, runs_close, scan, some_starts

USES = ("memory", "layer", "gate", "context")


def make(use: str, **options):
    return cores.make(
        "titans", input_size=6, output_size=8, use=use, heads=2, memory=5, chunk=3, **options
    ).double()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("use", USES)
def test_scan_equals_a_loop_over_step(use, depth):
    core = make(use, depth=depth)
    given = data(core, 23)
    runs_close(run(scan, core, given), run(fold, core, given), torch.float64)


@pytest.mark.parametrize("use", USES)
def test_an_episode_does_not_depend_on_its_position_in_the_row(use):
    core = make(use)
    x = torch.randn(1, 20, 6, dtype=torch.float64)
    never = torch.zeros(1, 20, dtype=torch.bool)
    alone, _ = core.scan(x, core.initial_state(1), never)
    for before in (1, 2, 4):
        packed = torch.cat([torch.randn(1, before, 6, dtype=torch.float64), x], 1)
        start = torch.zeros(1, before + 20, dtype=torch.bool)
        start[0, before] = True
        y, _ = core.scan(packed, core.initial_state(1), start)
        torch.testing.assert_close(y[:, before:], alone)


@pytest.mark.parametrize("use", USES)
def test_zeros_are_the_initial_state_for_any_weights(use):
    core = make(use)
    with torch.no_grad():
        for weight in core.inner.first:
            weight.add_(1.0)
    given = data(core)
    zeros = tree.map(torch.zeros_like, given.state)
    start = torch.zeros_like(some_starts("cpu", T))
    first = start.clone()
    first[:, 0] = True
    from_zeros = run(scan, core, Data(given.x, zeros, start))
    reset = run(scan, core, Data(given.x, given.state, first))
    torch.testing.assert_close(from_zeros.y, reset.y)


@pytest.mark.parametrize("use", USES)
def test_every_parameter_has_a_gradient(use):
    core = make(use)
    for key, gradient in run(scan, core, data(core, 9)).grad_params.items():
        assert gradient.isfinite().all(), key
        assert gradient.any(), key


@pytest.mark.parametrize("use", USES)
def test_steps_before_a_start_have_no_influence(use):
    core = make(use)
    given = data(core, 9)
    given.start[:, 4] = True
    x = given.x.clone().requires_grad_()
    y, final = core.scan(x, given.state, given.start)
    ends = [leaf.sum() for leaf in tree.leaves(final) if leaf.is_floating_point()]
    (gradient,) = torch.autograd.grad(y[:, 4:].sum() + sum(ends), x)
    assert gradient[:, 4:].any()
    assert not gradient[:, :4].any()
    x = torch.cat([torch.randn_like(x[:, :4]), x[:, 4:]], 1)
    assert torch.equal(core.scan(x, given.state, given.start)[0][:, 4:], y[:, 4:])


def test_context_attends_to_inputs_recalled_vectors_and_learned_tokens():
    """One episode by explicit lists; vectors are recalled with the weights of the chunk's start."""
    core, x = make("context"), torch.randn(1, 11, 6, dtype=torch.float64)
    never = torch.zeros(1, 11, dtype=torch.bool)
    got, _ = core.scan(x, core.initial_state(1), never)
    window, learned, _ = core.initial_state(1)
    attention, heads, seen = core.context, 2, []
    distances = attention.relative(sinusoids(torch.arange(6), 8).double()).view(6, heads, 4)

    def keys_and_values(token):
        return [part.view(heads, 4) for part in attention.qkv(token).split(8)[1:]]

    for t in range(11):
        if t % 3 == 0:
            asked = learned
        e = core.embed(x[:, t])
        seen.append((e[0], core.inner.recall(core.ask(e), asked)[0]))
        query = attention.qkv(e[0])[:8].view(heads, 4)
        scores, values = [], []
        for token in attention.persistent:
            key, value = keys_and_values(token)
            scores.append(((query + attention.content_bias) * key).sum(1))
            values.append(value)
        for ago, pair in enumerate(seen[: -(5 + 2) : -1]):
            for token in pair:
                key, value = keys_and_values(token)
                place = ((query + attention.position_bias) * distances[ago]).sum(1)
                scores.append(((query + attention.content_bias) * key).sum(1) + place)
                values.append(value)
        weights = (torch.stack(scores, 1) / 2).softmax(1)
        a = attention.out(torch.einsum("hm,mhd->hd", weights, torch.stack(values)).flatten())[None]
        m, window, learned = core.inner.step(a, window, learned)
        y = core.attention_norm(a) * torch.sigmoid(core.memory_norm(m))
        torch.testing.assert_close(got[:, t], y)


@pytest.mark.parametrize("name", ["atlas", "moneta", "yaad", "memora"])
def test_zeros_are_the_initial_state_of_the_family(name):
    core = cores.make(name, input_size=6, output_size=8).double()
    given = data(core)
    first = torch.zeros_like(given.start)
    first[:, 0] = True
    zeros = tree.map(torch.zeros_like, given.state)
    y, _ = core.scan(given.x, zeros, torch.zeros_like(first))
    torch.testing.assert_close(core.scan(given.x, given.state, first)[0], y)


@pytest.mark.parametrize("steps", [0, 3])
def test_atlas_with_muon_scans_like_a_loop_over_step(steps):
    core = cores.make("atlas", input_size=6, output_size=8, heads=2, muon_steps=steps).double()
    given = data(core, 23)
    runs_close(run(scan, core, given), run(fold, core, given), torch.float64)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("atlas", {"window": 0}, "window must be"),
        ("atlas", {"muon_steps": -1}, "muon_steps must be"),
        ("moneta", {"power": 0.5}, "power must be at least 1"),
        ("moneta", {"norm": 1.0}, "norm must be at least 2"),
        ("titans", {"use": "context", "persistent": -1}, "persistent must be"),
    ],
)
def test_invalid_options_of_the_family_are_named(name, options, message):
    with pytest.raises(UsageError, match=message):
        cores.make(name, input_size=8, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use": "head"}, "unknown use 'head'"),
        ({"depth": 3}, "depth must be 1"),
        ({"limit": 0.0}, "limit must be positive"),
        ({"chunk": 0}, "chunk"),
        ({"heads": 0}, "heads"),
        ({"expand": 0}, "expand"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        cores.make("titans", input_size=8, **options)
