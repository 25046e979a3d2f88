"""Battleship and MineSweeper: rare ends of episodes, and the distribution of boards."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import Any

import numpy as np
import popgym.envs
import pytest
import torch
from popgym.envs.minesweeper import HiddenSquare
from scipy import stats
from torch import Tensor

from rlmem import envs
from rlmem.envs import counter_rng
from rlmem.envs.popgym.battleship import SHIPS
from rlmem.envs.popgym.task import DIFFICULTIES
from tests.envs import distribution_asserts
from tests.envs.popgym_parity import ChooseAction, Parity
from tests.envs.popgym_state_boards import ATTACH

BOARDS = 10_000
TERMINATED, TRUNCATED, BOTH = (True, False), (False, True), (True, True)


def make(name: str, difficulty: str, num_envs: int = 1) -> Any:
    return envs.make(name, num_envs=num_envs, difficulty=difficulty, previous_action=False)


def draws(count: int = BOARDS) -> counter_rng.RandomDraws:
    key = counter_rng.keys(range(count))
    return counter_rng.RandomDraws(key, torch.zeros_like(key))


def first(mask: Any) -> Any:
    """The first square with the property; the corner if there is none."""
    return np.unravel_index(mask.argmax(), mask.shape)


def afloat(env: Any) -> Any:
    return (env.board == 1) & (env.guesses == 0)


def sink(env: Any) -> Any:
    """Every other shot hits."""
    return first(afloat(env) if env.num_steps % 2 else env.board == 0)


def sink_last(env: Any) -> Any:
    """Sinks the last ship with the last shot."""
    water = (env.board == 0) & (env.guesses == 0)
    return first(water if water.any() else afloat(env))


def one_too_late(env: Any) -> Any:
    """Misses the same square twice, so time runs out with one hit missing."""
    return first(env.board == 0) if env.num_steps < 2 else sink_last(env)


def stay(env: Any) -> Any:
    """Always shoots at (a ship) or opens (no mine) the same square."""
    board = env.board if hasattr(env, "board") else env.hidden_grid != HiddenSquare.MINE
    return first(board == 1)


def clear(env: Any) -> Any:
    return first(env.hidden_grid == HiddenSquare.CLEAR)


def clear_but_one(env: Any) -> Any:
    """Opens one square twice, so time runs out with one square left."""
    return first(env.hidden_grid == HiddenSquare.VIEWED) if env.timestep == 1 else clear(env)


def explode_last(env: Any) -> Any:
    """Opens a mine in the last step."""
    last = env.timestep == env.max_episode_length - 1
    return first(env.hidden_grid == HiddenSquare.MINE) if last else clear(env)


@pytest.mark.by_day(4)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize(
    ("name", "choose", "end"),
    [
        ("popgym-battleship", sink, TERMINATED),
        ("popgym-battleship", sink_last, BOTH),
        ("popgym-battleship", one_too_late, TRUNCATED),
        ("popgym-battleship", stay, TRUNCATED),
        ("popgym-minesweeper", clear, TERMINATED),
        ("popgym-minesweeper", clear_but_one, TRUNCATED),
        ("popgym-minesweeper", explode_last, TERMINATED),
        ("popgym-minesweeper", stay, TRUNCATED),
    ],
)
def test_rare_ends_are_those_of_the_package(
    name: str, difficulty: str, choose: ChooseAction, end: tuple[bool, bool]
) -> None:
    parity = Parity(name, difficulty, ATTACH[name], num_envs=4)
    assert set(parity.check_episodes(at_least=8, choose=choose)) == {end}


def package_berths(env: Any, starts: dict[int, int]) -> Iterator[list[int]]:
    """Placements of the package's ships as our berth numbers."""
    place = env.place_ship
    found: list[int] = []

    def recorded(board: Any, length: int) -> Any:
        before = board.copy()
        board = place(board, length)
        rows, columns = np.nonzero(board != before)
        upright = columns[0] == columns[-1]
        line, start = (columns[0], rows[0]) if upright else (rows[0], columns[0])
        found.append(int((env.board_size * upright + line) * starts[length] + start))
        return board

    env.place_ship = recorded
    for seed in range(BOARDS):
        found.clear()
        env.reset(seed=seed if seed == 0 else None)
        yield list(found)


def our_berths(env: Any) -> Tensor:
    """Placements of our ships, [boards, ships]."""
    found: list[Tensor] = []
    for berths in {id(berths): berths for berths in env.fleet}.values():
        taken = berths.taken

        def recorded(berth: Tensor, taken: Any = taken) -> Any:
            found.append(berth)
            return taken(berth)

        berths.taken = recorded
    board = env.initial_state(draws()).board
    assert (board.sum(1) == sum(SHIPS)).all()
    count = len(env.fleet)
    return torch.cat([torch.stack(found[i : i + count], 1) for i in range(0, len(found), count)])


@pytest.mark.by_day(3)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_placements_of_ships_are_distributed_as_in_the_package(difficulty: str) -> None:
    env = make("popgym-battleship", difficulty)
    starts = {length: berths.starts for length, berths in zip(SHIPS, env.fleet, strict=True)}
    original = getattr(popgym.envs, "Battleship" + difficulty.capitalize())()
    theirs = torch.tensor(list(package_berths(original, starts)))
    ours = our_berths(env)
    for i, berths in enumerate(env.fleet):
        counts = [torch.bincount(a[:, i], minlength=len(berths.lines)) for a in (ours, theirs)]
        assert stats.chi2_contingency(torch.stack(counts)).pvalue > distribution_asserts.LEAST
    # For each pair of ships: rows or columns, and whether in the same half.
    size = env.size
    for i in range(len(SHIPS)):
        for j in range(i):
            kinds = []
            for berths in (ours, theirs):
                line_i, line_j = (berths[:, k] // starts[SHIPS[k]] for k in (i, j))
                upright = (line_i // size) * 2 + line_j // size
                near = ((line_i % size) - (line_j % size)).abs()
                kinds.append(torch.bincount(upright * size + near, minlength=4 * size))
            table = torch.stack(kinds)
            assert (
                stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue
                > distribution_asserts.LEAST
            )


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_free_berths_are_equally_likely(difficulty: str) -> None:
    env = make("popgym-battleship", difficulty)
    taken = env.initial_state(draws(1)).board
    for berths in env.fleet:
        board = berths.squares[:: len(berths.squares) // 3][:3].sum(0, keepdim=True).clamp(max=1)
        free = ((berths.squares & (board | taken)) == 0).all(1)
        square = (board | taken).view(env.size, env.size)
        bit = 1 << torch.arange(env.size)
        lines = torch.cat([(square * bit).sum(1), (square * bit[:, None]).sum(0)])[None].int()
        chosen = berths.choose(lines.repeat(BOARDS, 1), draws().bits(1)[0])
        distribution_asserts.assert_frequencies(chosen, free.double() / free.sum())


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_all_sets_of_mines_are_equally_likely(difficulty: str) -> None:
    env = make("popgym-minesweeper", difficulty)
    field = env.initial_state(draws())
    mines = (field.shut[:, None] >> torch.arange(env.squares)) & 1
    assert (mines.sum(1) == env.mines).all()
    assert torch.equal(mines == 1, field.squares >= 16)
    # The lowest and the highest mine: one number of each board with a known distribution.
    last = env.squares - 1
    ways = [comb(last - square, env.mines - 1) for square in range(env.squares)]
    likely = np.array(ways) / comb(env.squares, env.mines)
    # Squares with fewer than ten expected counts are merged.
    kinds = np.cumsum(likely * BOARDS > 10)
    kinds[likely * BOARDS <= 10] = 0
    merged = np.bincount(kinds, likely)
    for lowest in (mines.argmax(1), mines.flip(1).argmax(1)):
        distribution_asserts.assert_frequencies(torch.from_numpy(kinds)[lowest], merged)
    if difficulty == "easy":
        pairs = mines.double().T @ mines.double()
        counts = pairs[torch.ones_like(pairs).triu(1) == 1]
        assert len(counts) == 120
        assert stats.chisquare(counts).pvalue > distribution_asserts.LEAST


def test_description_of_battleship() -> None:
    env = make("popgym-battleship", "easy")
    env.reset(0)
    env.state.board.zero_()
    env.state.board[0, 3:5] = 1
    shots = [torch.tensor([[0, 3]]), torch.tensor([[1, 0]])]
    obs = [env.step({"action": shot}).obs for shot in shots]
    assert [env.describe_obs(seen, 0) for seen in obs] == ["hit", "miss"]
    assert env.describe_action({"action": shots[1]}, 0) == "row 1 column 0"
    assert env.reveal(0).split("\n")[:3] == [
        "· · · ✕ ■ · · ·",
        "○ · · · · · · ·",
        "· · · · · · · ·",
    ]


def test_description_of_minesweeper() -> None:
    env = make("popgym-minesweeper", "easy")
    env.reset(0)
    env.state = env.lay(torch.tensor([[0], [5]], dtype=torch.int32))
    obs = env.step({"action": torch.tensor([[1, 0]])}).obs
    assert env.describe_obs(obs, 0) == "2 near"
    assert env.describe_action({"action": torch.tensor([[1, 0]])}, 0) == "row 1 column 0"
    assert env.reveal(0).split("\n") == ["✱ · · ·", "2 ✱ · ·", "· · · ·", "· · · ·"]
