"""One training step as two pure programs: `collect` plays the episodes, `update` learns from them.

Both see the same decoder function, so at the first update the probability ratio is one up to rounding. B episodes,
T slots, N turns.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import jaxpr_as_fun

from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import maze
from welfare_jax.models import decoder, interventions, lora
from welfare_jax.rl import advantages, objectives, rollout
from welfare_jax.text import pieces as text
from welfare_jax.train import shuffled
from welfare_jax.train import state as state_lib
from welfare_jax.train.algorithms import ALGORITHMS
from welfare_jax.train.settings import Training
from welfare_jax.train.state import State, join


class Knobs(NamedTuple):
    """Settings that are data, so that organisms side by side may differ in them."""

    lr: jax.Array | float
    entropy_coef: jax.Array | float
    shuffle: jax.Array | None = None  # uint32, see `shuffled.worth`; None where no rewards are shuffled


class Examples(NamedTuple):
    """What a gradient pass needs of B episodes."""

    tokens: jax.Array  # int32 [B, T]
    mask: jax.Array  # bool [B, T]
    read: jax.Array  # int32 [B, N], the slots at which the player answers
    batch: objectives.Batch


def episode_keys(seed_key, step, groups: int, group_size: int):
    """(maze key, one key an episode [B]) of a training step: everything random follows from the seed and the step."""
    k_maze, k_play = jax.random.split(jax.random.fold_in(seed_key, step))
    return k_maze, jax.random.split(k_play, groups * group_size)


def make_collect(
    graphdef, pieces: text.Pieces, params, *, groups: int, group_size: int, merged: bool = False, mesh=None,
    dtype=None, at_once: int = 0, devices=mesh_lib.ONE, rules: rollout.Rules = rollout.MAZE,
):  # fmt: skip
    """`collect(trainable, frozen, seed_key, step, temperature, iv=None, tiles=None)`.

    Returns (Trajectory, start states [groups, ...]). params: `maze.Params`, or what other `rules` read; iv:
    interventions on the player; tiles int32 [3]: the role whose emoji each role shows. With `merged`, adapters are
    folded into the kernels first: less work a token, at the cost of a second copy of the weights for as long as the
    rollout runs. at_once: episodes that play at a time and share
    the memory of a cache, 0 for all; they play the same episodes. Under `jax.pmap` over `devices` each device returns
    its own episodes.
    """
    episodes = groups * group_size
    at_once = (min(at_once, episodes) or episodes) // devices.count
    spread = devices.name is None and mesh is not None and mesh.size > 1
    dealt = mesh_lib.Devices(mesh=mesh).rows if spread else 1
    alike = math.gcd(rules.alike(params, group_size), at_once // dealt)
    widths = pieces.widths(rules is rollout.MAZE and params.calm)

    def collect(trainable, frozen, seed_key, step, temperature, iv=None, tiles=None):
        graph, weights = graphdef, join(trainable, frozen, dtype)
        if merged:
            graph, weights = lora.merge(graph, weights)
        model = decoder.bind(graph, weights)
        k_maze, keys = episode_keys(seed_key, step, groups, group_size)
        states = rules.group_states(k_maze, groups, group_size, params)
        starts = jax.tree.map(lambda a: a[::group_size], states)
        table = pieces.table if tiles is None else text.permuted(pieces.table, tiles)
        policy = rollout.from_model(model, table.letters, iv, lambda cache: _lay(cache, mesh) if spread else cache)
        common = 1 if interventions.per_row(iv) else alike

        def play(some):
            states, keys = some
            return rollout.play(
                policy, None, table, pieces.size, widths, params, states=states, keys=keys, temperature=temperature,
                alike=common, rules=rules,
            )  # fmt: skip

        parts = cut(devices.mine((states, keys)), at_once, dealt)
        if spread:
            parts = jax.lax.with_sharding_constraint(parts, mesh_lib.rows_of_parts(mesh))
        if at_once * devices.count == episodes:
            return play(jax.tree.map(lambda a: a[0], parts)), starts
        return uncut(jax.lax.map(play, parts), dealt), starts

    return collect


def _lay(cache, mesh):
    """The cache, its rows kept on their devices: else XLA may cut it as the weights that make it."""
    where = mesh_lib.keys_values(mesh, cache.k.shape[2])
    return cache._replace(**{k: jax.lax.with_sharding_constraint(getattr(cache, k), where) for k in "kv"})


def make_learn(graphdef, letters, optimizer, config: Training, *, dtype=None, devices=mesh_lib.ONE, opening=(0, 1)):
    """`learn(state, frozen, examples, temperature, knobs, iv=None) -> (state, metrics)`, and the model's `outputs`.

    Every algorithm's gradient steps: `config.epochs` passes over the examples in `config.minibatches` parts of a new
    order each time, one optimiser step a part. Within a part, gradients of `config.micro_batch` episodes at a time
    are added up; numerators and denominators stay apart until all are in. Under `jax.pmap` over `devices` every device
    is given all examples and works on its share of each micro-batch. opening: as in `rollout.replay`, of examples in
    the order in which they are given.
    """
    objective = ALGORITHMS[config.algorithm].objective
    remat = config.remat and config.remat_keeps
    optimizer = optax.with_extra_args_support(optimizer)
    first, alike = opening
    if config.epochs * config.minibatches > 1:  # whose parts are drawn anew
        alike = 1

    def outputs(trainable, frozen, tokens, mask, read, temperature, iv, devices=devices):
        """Log-probabilities [B, N, 4], their logsumexp before [B, N], and what the value head says [B, N]."""
        model = decoder.bind(graphdef, join(trainable, frozen, dtype))
        common = math.gcd(alike, len(tokens) // devices.rows)
        hidden, logits = rollout.replay(
            model, tokens, mask, read, letters, iv=iv, remat=remat, hold=devices.hold, opening=(first, common)
        )
        scaled = logits / jnp.maximum(temperature, 1e-6)
        head = [trainable.get(state_lib.VALUE_HEAD + name) for name in ("kernel", "bias")]
        values = None if head[0] is None else jnp.einsum("bnd,d->bn", hidden.astype(jnp.float32), head[0]) + head[1]
        return jax.nn.log_softmax(scaled), jax.nn.logsumexp(scaled, -1), values

    def learn(state: State, frozen, examples: Examples, temperature, knobs: Knobs, iv=None):
        rate = knobs.lr * objectives.schedule(
            config.schedule, state.step, config.schedule_steps, config.warmup, config.schedule_rate
        )
        entropy_coef = knobs.entropy_coef * objectives.cosine(state.step, config.schedule_steps, config.schedule_rate)
        numbers = objectives.Surrogate(
            clip=config.clip, dual_clip=config.dual_clip, z=config.z, entropy_coef=entropy_coef,
            kl_coef=config.kl_coef * (config.kl_in == "loss"), value_clip=config.value_clip,
            value_coef=config.value_coef, soft_q=config.soft_q, gamma=config.gamma, entropy=config.entropy,
            kl=config.kl,
        )  # fmt: skip

        def loss(trainable, part, devices):
            new, soft, values = outputs(trainable, frozen, *part[:3], temperature, iv, devices)
            numerator, denominator, metrics = objective(
                part.batch._replace(soft_values=soft, values=values), new, numbers
            )
            return numerator, (denominator, metrics)

        def one(carry, rows):
            """An optimiser step on the examples `rows`, or on all of them in their order."""
            trainable, opt_state = carry
            part = examples if rows is None else jax.tree.map(lambda a: a[rows], examples)
            (numerator, (denominator, metrics)), grads = accumulate(loss, trainable, part, config.micro_batch, devices)
            grads = jax.tree.map(lambda g: g / jnp.maximum(denominator, 1), grads)
            updates, opt_state = optimizer.update(grads, opt_state, trainable, lr=rate)
            metrics |= {"loss": (numerator, denominator), "grad_norm": (optax.tree.norm(grads), 1.0)}
            return (optax.apply_updates(trainable, updates), opt_state), metrics

        carry, steps, count = (state.trainable, state.opt_state), config.epochs * config.minibatches, len(examples[0])
        if steps == 1:
            carry, metrics = one(carry, None)
        else:
            keys = jax.random.split(jax.random.fold_in(jax.random.key(0), state.step), config.epochs)
            order = jax.vmap(lambda k: jax.random.permutation(k, count))(keys)
            carry, metrics = jax.lax.scan(one, carry, order.reshape(steps, -1))
            metrics = jax.tree_util.tree_map_with_path(lambda p, a: a.max(0) if _is_max(p) else a.sum(0), metrics)
        metrics |= {"lr": (rate, 1.0), "entropy_coef": (entropy_coef, 1.0)}
        return State(state.step + 1, *carry), metrics

    return learn, outputs


def cut(rows, size, dealt: int = 1):
    """Leaves [B, ...] as parts [B / size, size, ...]. Of rows that are dealt among devices, each has
    consecutive ones in every part."""

    def one(a):
        own = min(size, len(a)) // dealt
        return a.reshape(dealt, -1, own, *a.shape[1:]).swapaxes(0, 1).reshape(-1, dealt * own, *a.shape[1:])

    return jax.tree.map(one, rows)


def uncut(parts, dealt: int = 1):
    """The rows that `cut` dealt, in their order again."""

    def one(a):
        a = a.reshape(len(a), dealt, -1, *a.shape[2:]).swapaxes(0, 1)
        return a.reshape(-1, *a.shape[3:])

    return jax.tree.map(one, parts)


def accumulate(loss, trainable, examples, size, devices=mesh_lib.ONE):
    """((numerator, (denominator, metrics)), gradients), summed over micro-batches of `size` examples and devices.

    `loss(trainable, examples, devices)`. Every device along the data axis sums up its own examples' gradients, in the
    parameters' type, and they are added up over that axis once, after the last micro-batch.
    """
    grad = jax.value_and_grad(loss, has_aux=True)
    each = devices.each(lambda part, own: grad(trainable, part, own))
    parts = cut(devices.mine(examples), size // devices.count, devices.rows)

    # Traced once, for the shapes of what is summed and for the sum: its trace is most of what starting a run takes.
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), parts)
    traced, shapes = jax.make_jaxpr(each, return_shape=True)(first)
    run = jaxpr_as_fun(traced)

    def body(total, part):
        found = jax.tree.unflatten(jax.tree.structure(shapes), run(*jax.tree.leaves(part)))
        return jax.tree_util.tree_map_with_path(_gather, total, found), None

    total = jax.lax.scan(body, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), parts)[0]

    def whole(path, a):
        if devices.apart > 1:
            a = a.max(0) if _is_max(path) else a.sum(0)
        return devices.max(a) if _is_max(path) else devices.sum(a)

    return jax.tree_util.tree_map_with_path(whole, total)


def make_update(
    graphdef, pieces: text.Pieces, optimizer, config: Training, params, *, dtype=None, devices=mesh_lib.ONE,
    rules: rollout.Rules = rollout.MAZE,
):  # fmt: skip
    """`update(state, frozen, initial, trajectory, temperature, knobs=None, iv=None) -> (state, metrics)`.

    Metrics are (sum, count) pairs. `initial` holds the trainable parameters before training where there is a KL term
    or each step starts from them, else None. The reference sees the interventions `iv` too. Under `jax.pmap` over
    `devices` the trajectory holds each device's own episodes.
    """
    algorithm = ALGORITHMS[config.algorithm]
    alike = 1 if config.keep_best else rules.alike(params, config.group_size)  # the best are drawn anew
    opening = (pieces.first_width, alike)
    beside = {"dtype": dtype, "devices": devices, "opening": opening}
    learn, outputs = make_learn(graphdef, pieces.table.letters, optimizer, config, **beside)

    def each(trainable, frozen, examples, temperature, iv):
        """`outputs` of all examples, a micro-batch at a time."""
        run = lambda part: outputs(trainable, frozen, *part, temperature, iv)
        parts = cut(devices.mine(examples[:3]), config.micro_batch // devices.count, devices.rows)
        return devices.whole(uncut(jax.lax.map(run, parts), devices.rows))

    def prepare(state, frozen, initial, played, worth, temperature, iv):
        """Examples with everything that does not change while they are learnt from; worth: of tiles, [3] or [B, 3]."""
        worth = config.reward_scale * shuffled.taken(worth, played.neighbours) if algorithm.every_action else None
        batch = objectives.Batch(played.actions, None, None, played.neighbours, worth=worth)
        examples = Examples(played.tokens, played.mask, played.read, batch)
        if algorithm.advantage is None:
            return examples
        old = objectives.policy_logps(played.logits, temperature)
        ref = each(initial, frozen, examples, temperature, iv)[0] if config.kl_coef else None
        values = each(state.trainable, frozen, examples, temperature, iv)[2] if algorithm.value_head else None
        rewards = config.reward_scale * played.rewards
        if config.kl_coef and config.kl_in == "reward":
            rewards = rewards - config.kl_coef * objectives.kl_divergence(config.kl, old, ref, played.actions)
        gained, returns = algorithm.advantage(rewards, values, config, None)
        batch = batch._replace(old_logps=old, ref_logps=ref, advantages=gained, returns=returns, old_values=values)
        return examples._replace(batch=batch)

    def update(state: State, frozen, initial, played: rollout.Trajectory, temperature, knobs=None, iv=None):
        knobs, played = knobs or Knobs(config.lr, config.entropy_coef), devices.whole(played)
        worth, learnt = None if played.neighbours is None else maze.worth(params), played
        if knobs.shuffle is not None:
            worth = shuffled.worth(params, knobs.shuffle, state.step, len(played.rewards), config.group_size)
            learnt = played._replace(rewards=shuffled.rewards(played, worth, params))
        examples = prepare(state, frozen, initial, learnt, worth, temperature, iv)
        if config.keep_best:
            examples = _best(examples, learnt, config)
        if algorithm.restart:
            state = State(state.step, initial, optimizer.init(initial))
        heat = 1.0 if algorithm.advantage is None else temperature
        state, metrics = learn(state, frozen, examples, heat, knobs, iv)
        if played.neighbours is not None:
            metrics |= objectives.choices(played.neighbours, played.actions)
        return state, metrics | returns(played)

    return update


def _best(examples, played, config: Training):
    """The `config.keep_best` best distinct episodes of every maze; where there are fewer, the rest do not count."""
    trace = played.tokens if played.x is None else jnp.concatenate([played.actions, played.x, played.y], 1)
    same = lambda i, j: (trace[i] == trace[j]).all(-1)
    rows, kept = advantages.best_distinct(played.rewards.sum(-1), same, config.group_size, config.keep_best)
    examples = jax.tree.map(lambda a: a[rows], examples)
    mask = jnp.broadcast_to(kept[:, None], examples.batch.actions.shape)
    return examples._replace(batch=examples.batch._replace(mask=mask))


def _is_max(path):
    return any(str(getattr(p, "key", "")).endswith("_max") for p in path)


def _gather(path, a, b):
    return jnp.maximum(a, b) if _is_max(path) else a + b


def returns(played):
    episodes = played.rewards.shape[0]
    returns = played.rewards.sum(-1)
    counted = (played.info or {}) if played.gold is None else {"gold": played.gold, "mold": played.mold}
    return {
        "reward": (returns.sum(), episodes),
        "reward_std": (jnp.std(returns), 1.0),
        **{name: (found.sum(), episodes) for name, found in counted.items()},
        "tokens": (played.mask.sum(), 1.0),
    }


def values(metrics) -> dict:
    """Host numbers from (sum, count) pairs and maxima; an empty count gives None."""
    out = {}
    for name, value in jax.device_get(metrics).items():
        if isinstance(value, tuple):
            out[name] = float(value[0] / value[1]) if value[1] else None
        else:
            out[name] = float(value)
    return out
