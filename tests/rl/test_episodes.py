"""Any trajectory as a replay: in a terminal, as a page of its own, and against what was played."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax.envs import levels, maze
from welfare_jax.report import replay
from welfare_jax.rl import episodes, rollout
from welfare_jax.text import pieces as text
from welfare_jax.text.wording import Wording

PARAMS = maze.Params(size=15, turns=5, wind=0.6)
WORDING = Wording(letters=("U", "R", "D", "L"))


@pytest.fixture(scope="module")
def played():
    table = text.Table(jnp.zeros((54, 1), jnp.int32), jnp.zeros(54, jnp.int32), None)
    states = rollout.group_states(jax.random.key(1), 1, 4, PARAMS)
    keys = jax.random.split(jax.random.key(2), 4)
    play = jax.jit(lambda keys: rollout.play(rollout.uniform(), None, table, 15, (1, 1), PARAMS, states, keys, 1.0))
    return jax.device_get(states), jax.device_get(play(keys))


def test_a_recorded_episode(played):
    """JSON holds it, the window is the maze, and where one turn ends the next begins."""
    states, out = played
    for row in range(4):
        e = json.loads(json.dumps(episodes.episode(out, states.grid[row], WORDING, row=row, title="any")))
        level = levels.parse("\n".join(e["window"]["rows"]).replace(".", "@", 1))
        assert (np.asarray(level.grid) == states.grid[row]).all() and e["start"] == [states.x[row], states.y[row]]
        for turn, after in zip(e["turns"], e["turns"][1:]):
            assert turn["end"] == [after["x"], after["y"]]
        assert e["reward"] == pytest.approx(out.rewards[row].sum(), abs=1e-3)


@pytest.mark.parametrize("melt", [True, False])
def test_what_melts_in_the_replay_is_what_melted(melt):
    """The last window is the maze as it is at the end."""
    params = dataclasses.replace(PARAMS, melt=melt)
    states = rollout.group_states(jax.random.key(1), 1, 4, params)
    step = jax.jit(jax.vmap(maze.step, (0, 0, 0, None)))
    out, now = [], states
    for t in range(params.turns):
        action = jnp.arange(4) if t % 2 else 3 - jnp.arange(4)
        before = now
        obs, now, reward, _, _, info = step(jax.random.split(jax.random.key(t), 4), now, action, params)
        near = jax.vmap(maze.observe, (0, None))(before, params).neighbours
        out.append((action, jnp.zeros((4, 4)), near, reward, info["gold"], info["mold"], before.x, before.y, now.wind,
                    info["landed"], now.order))  # fmt: skip
    fields = [np.stack(a, 1) for a in zip(*jax.device_get(out))]
    played = rollout.Trajectory(*np.zeros((3, 4, 1)), *fields)
    for row in range(4):
        e = episodes.episode(played, states.grid[row], WORDING, row=row, melt=melt)
        end = replay.frames(e)[-1]
        want = np.asarray(maze.tiles(jax.tree.map(lambda a, row=row: a[row], now), params))
        assert [line.replace("x", "#") for line in end["rows"]] == ["".join(levels.SIGNS[t] for t in r) for r in want]
        assert (end["gold"], end["mold"]) == (played.gold[row].sum(), played.mold[row].sum())


def test_in_a_terminal(played):
    """Every turn with its message, its answer in the words of the wording, and the sum at the end."""
    states, out = played
    e = episodes.episode(out, states.grid[0], WORDING, title="any")
    shown = replay.transcript(e)
    assert shown.count("@ player") == PARAMS.turns + 1 and shown.isascii() is False
    for turn in e["turns"]:
        assert turn["message"] in shown and f"answer: {WORDING.letters[turn['action']]} " in shown
    assert f"Reward {e['reward']:+.1f}" in shown.splitlines()[-1]


def test_as_a_page_and_from_the_command_line(played, tmp_path, capsys):
    states, out = played
    shown = [episodes.episode(out, states.grid[i], WORDING, row=i, title=f"row {i}") for i in range(2)]
    (tmp_path / "analysis.json").write_text(json.dumps({"episodes": shown}))
    assert replay.main([str(tmp_path), "--episode", "1"]) == 0
    assert capsys.readouterr().out.rstrip() == replay.transcript(shown[1]).rstrip()
    page = tmp_path / "page.html"
    assert replay.main([str(tmp_path), "--episode", "1", "--html", str(page)]) == 0
    assert page.read_text() == replay.page(shown[1]) and "<title>row 1</title>" in page.read_text()
    for bad in (["--episode", "2"], ["--episode", "-1"]):
        assert replay.main([str(tmp_path), *bad]) == 2
    assert replay.main([str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all(line.startswith("error: ") for line in said) and "2 recorded" in said[0]
