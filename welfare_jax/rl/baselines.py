"""What policies without a model earn, so that a reward curve can be read: uniform, greedy on neighbours, planned."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax.envs import maze, planner

WORTH = np.array([0.0, 1.0, -1.0])  # how greedy ranks path, gold and mold


def uniform(key, state, obs, params):
    return jax.random.randint(key, (), 0, 4)


def greedy(key, state, obs, params):
    """Gold where there is some next to the player, else path, mold last; ties at random."""
    return jnp.argmax(jnp.asarray(WORTH)[obs.neighbours] + 0.5 * jax.random.uniform(key, (4,)))


def planned(key, state, obs, params):
    """The first move of a plan for the turns that are left, made anew every turn. It knows the maze, not the wind."""
    return planner.plan(jax.tree.map(lambda a: a[None], state), params, beams=32).actions[0, 0]


POLICIES = {"uniform": (uniform, 4096), "greedy on neighbours": (greedy, 4096), "planner": (planned, 256)}


def returns(policy, keys, params: maze.Params):
    """(reward, gold entered, mold entered) [B, 3] of one episode a key, each in its own maze."""

    def episode(key):
        k_maze, k_play = jax.random.split(key)

        def turn(carry, k):
            obs, state = carry
            k_act, k_step = jax.random.split(k)
            obs, state, reward, _, _, info = maze.step(k_step, state, policy(k_act, state, obs, params), params)
            return (obs, state), jnp.stack([reward, info["gold"], info["mold"]])

        return jax.lax.scan(turn, maze.reset(k_maze, params), jax.random.split(k_play, params.turns))[1].sum(0)

    return jax.lax.map(episode, keys, batch_size=64)


def table(params: maze.Params, seed: int = 0, policies=None) -> list[dict]:
    """One row a policy: mean reward, Gold and Mold an episode and their standard errors, over fresh mazes.

    The figures are simulated, not approximated: a row's `reward` lies within twice `reward_error` of the true value
    with 95 % probability. `policies`: name -> (policy, episodes), by default all of them.
    """
    rows = []
    for name, (policy, episodes) in (policies or POLICIES).items():
        keys = jax.random.split(jax.random.key(seed), episodes)
        out = jax.jit(returns, static_argnums=0)(policy, keys, params)
        mean, error = out.mean(0), out.std(0) / math.sqrt(episodes)
        names = ("reward", "gold", "mold")
        row = {"policy": name, "episodes": episodes}
        row |= {n: round(float(m), 4) for n, m in zip(names, mean)}
        rows.append(row | {f"{n}_error": round(float(e), 4) for n, e in zip(names, error)})
    return rows
