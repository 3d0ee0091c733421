"""Supervised data: trajectories of the planner, kept as the few numbers from which a program lays out the tokens.

B trajectories, N turns, T slots. Nothing is tokenised and no token is stored: a batch of numbers becomes tokens where
it is used, the turns of a trajectory end to end.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.envs import maze, planner
from welfare_jax.errors import InputError
from welfare_jax.text import pieces as text


class Planned(NamedTuple):
    """What was seen and done, turn by turn; arrays on the host or on the device."""

    actions: np.ndarray  # int8 [B, N]
    neighbours: np.ndarray  # int8 [B, N, 4], tile roles before the move
    x: np.ndarray  # int16 [B, N]
    y: np.ndarray
    order: np.ndarray  # int8 [B, N, 4]
    rewards: np.ndarray  # float32 [B, N]


def generate(params: maze.Params, count: int, seed: int, beams: int = 64, batch: int = 256) -> Planned:
    """`count` planned trajectories, each in its own maze, without wind. Deterministic in `seed`."""
    if count < 1:
        raise InputError(f"sft.trajectories={count}: must be at least 1")
    calm = maze.Params(**{**vars(params), "wind": 0.0})

    @jax.jit
    def some(numbers):
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
        _, states = jax.vmap(maze.reset, (0, None))(keys, calm)
        plans = planner.plan(states, calm, beams).actions

        def turn(states, action):
            obs = jax.vmap(maze.observe, (0, None))(states, calm)
            _, after, reward, *_ = jax.vmap(maze.step, (0, 0, 0, None))(keys, states, action, calm)
            return after, (action, obs.neighbours, obs.x, obs.y, obs.order, reward)

        out = jax.lax.scan(turn, states, plans.T)[1]
        kinds = (jnp.int8, jnp.int8, jnp.int16, jnp.int16, jnp.int8, jnp.float32)
        return Planned(*(jnp.moveaxis(a, 0, 1).astype(kind) for a, kind in zip(out, kinds)))

    batch = min(batch, count)
    parts = [jax.device_get(some(jnp.arange(a, a + batch))) for a in range(0, count, batch)]
    return jax.tree.map(lambda *a: np.concatenate(a)[:count], *parts)


def _numbers(rows: Planned, size: int):
    """Piece numbers [B, N, 10]."""
    calm = jnp.full(rows.x.shape, -1)
    whole = jax.tree.map(lambda a: jnp.asarray(a).astype(jnp.int32), rows._replace(rewards=rows.x))
    obs = maze.Observation(whole.x, whole.y, whole.neighbours, whole.order, calm)
    first = jnp.broadcast_to(jnp.arange(rows.x.shape[1]) == 0, rows.x.shape)
    return text.observation_pieces(obs, jnp.roll(whole.actions, 1, axis=1), first, size)


def longest(pieces: text.Pieces, rows: Planned) -> int:
    """Slots that the longest trajectory needs."""
    lengths = jax.jit(lambda rows: pieces.table.lengths[_numbers(rows, pieces.size)].sum((1, 2)))(rows)
    return int(lengths.max())


def lay(table: text.Table, size: int, rows: Planned, width: int):
    """(tokens [B, width], mask, read [B, N]): whole conversations against the left edge, and where answers stand."""
    numbers = _numbers(rows, size)
    tokens, mask = text.pack(table, numbers.reshape(len(numbers), -1), width, align="left")
    return tokens, mask, jnp.cumsum(table.lengths[numbers].sum(-1), -1) - 1


def pipeline(data: Planned, seed: int, batch: int):
    """An endless grain iterator of `Planned` batches, shuffled anew each epoch; `get_state` and `set_state` resume."""
    import grain

    if len(data.x) < batch:
        raise InputError(f"sft.batch={batch}: more than the {len(data.x)} trajectories (sft.trajectories)")
    source = grain.MapDataset.source(_Rows(data)).seed(seed).shuffle().repeat().batch(batch, drop_remainder=True)
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


class _Rows:
    """A random-access source for grain."""

    def __init__(self, data: Planned):
        self.data = data

    def __len__(self):
        return len(self.data.x)

    def __getitem__(self, i):
        return jax.tree.map(lambda a: a[i], self.data)


def adjacent_gold(logps, rows: Planned) -> dict:
    """(sum, count) pairs over planned turns: does the most likely move do what the plan does?

    gold_agreement: where the plan takes an adjacent Gold, the most likely move takes one too. logps [B, N, 4].
    """
    near, actions = (jnp.asarray(a).astype(jnp.int32) for a in (rows.neighbours, rows.actions))
    tile = lambda moves: jnp.take_along_axis(near, moves[..., None], -1)[..., 0]
    best, taken = jnp.argmax(logps, -1), tile(actions) == maze.GOLD
    likelihood = jnp.take_along_axis(logps, actions[..., None], -1)[..., 0]
    return {
        "gold_agreement": (jnp.sum(taken & (tile(best) == maze.GOLD)), taken.sum()),
        "move_agreement": (jnp.sum(best == actions), actions.size),
        "log_likelihood": (likelihood.sum(), actions.size),
    }


# What a rule may look at, from the observations alone: finer and finer, each falling back on the one before.
def _features(rows: Planned):
    near = rows.neighbours.astype(int) @ np.array([1, 3, 9, 27])
    before = np.concatenate([np.full((len(near), 1), 4), rows.actions[:, :-1]], 1).astype(int)
    older = np.concatenate([np.full((len(near), 1), 4), before[:, :-1]], 1)
    turn = np.broadcast_to(np.arange(near.shape[1]), near.shape)
    return (
        ("neighbours", near),
        ("and the last move", near * 5 + before),
        ("and the last two moves", (near * 5 + before) * 5 + older),
        ("and the turn", ((near * 5 + before) * 5 + older) * near.shape[1] + turn),
    )


def rules(train: Planned, test: Planned, prior: float = 4.0) -> dict[str, float]:
    """Mean log-likelihood of the planned moves of `test` under counts over what the player has seen in `train`.

    Each rule adds a feature and shrinks its counts towards the rule before it, with the weight of `prior` cases. The
    planner sees the whole maze, so none can come near zero: this is what imitation from the observations can reach.
    """
    out, old_test = {}, np.full((*test.actions.shape, 4), 0.25)
    for (name, seen), (_, asked) in zip(_features(train), _features(test)):
        kinds, index = np.unique(np.concatenate([seen.ravel(), asked.ravel()]), return_inverse=True)
        index = index.reshape(-1)
        counts, known = np.zeros((len(kinds), 4)), index[: seen.size]
        np.add.at(counts, (known, train.actions.ravel().astype(int)), 1.0)
        unknown = index[seen.size :]
        total = counts.sum(-1, keepdims=True) + prior
        before = old_test.reshape(-1, 4)
        old_test = ((counts[unknown] + prior * before) / total[unknown]).reshape(old_test.shape)
        likelihood = np.take_along_axis(old_test, test.actions[..., None].astype(int), -1)
        out[name] = float(np.log(likelihood).mean())
    return out
