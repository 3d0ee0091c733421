"""The objectives of reinforcement learning against plain loops over episodes and turns."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from welfare_jax.rl import objectives as o

B, N = 6, 5
SETTINGS = o.Surrogate(clip=0.2, dual_clip=3.0, z=2048.0, entropy_coef=0.3, kl_coef=0.7)
OTHER = SETTINGS._replace(entropy="plain", kl="k3", value_clip=0.3, value_coef=0.8)


def random_batch(seed=0, shift=0.4, ref=True):
    """(batch, logits of the new policy) in float64, ratios on both sides of every clip; some turns are padding."""
    rng = np.random.default_rng(seed)
    old, other = rng.normal(size=(2, B, N, 4))
    new = old + shift * rng.normal(size=(B, N, 4))
    returns, before, now = rng.normal(size=(3, B, N))
    mask = rng.random((B, N)) < 0.8
    mask[1] = False  # an episode that is all padding
    batch = o.Batch(
        actions=rng.integers(0, 4, (B, N)), old_logps=log_softmax(old, -1), advantages=3 * rng.normal(size=(B, N)),
        neighbours=rng.integers(0, 3, (B, N, 4)), ref_logps=log_softmax(other, -1) if ref else None,
        mask=mask if seed % 2 else None, returns=returns, old_values=before, values=now,
        worth=rng.normal(size=(B, N, 4)),
    )  # fmt: skip
    return batch, new


def tile_entropy(logits, near):
    """Entropy of the softmax over the actions of each tile role that two or more actions lead to, summed."""
    groups = [[logits[a] for a in range(4) if near[a] == role] for role in range(3)]
    return sum(entropy(softmax(g)) for g in groups if len(g) >= 2)


def token(batch, logits, s, b, n, every=False):
    """(loss, numbers) of one turn; every: by what each of the four actions earns."""
    new, old, a, gain = log_softmax(logits[b, n]), batch.old_logps[b, n], batch.actions[b, n], batch.advantages[b, n]
    ratio = math.exp(min(max(new[a] - old[a], -20), 20))
    worth = min(ratio * gain, min(max(ratio, 1 - s.clip), 1 + s.clip) * gain)
    if gain < 0:
        worth = max(worth, s.dual_clip * gain)
    if every:
        worth = sum(math.exp(p) * w for p, w in zip(new, batch.worth[b, n]))
    equal, spread = tile_entropy(logits[b, n], batch.neighbours[b, n]), entropy(np.exp(new))
    total = -worth - s.entropy_coef * (equal if s.entropy == "equalised" else spread)
    numbers = dict(ratio=ratio, entropy=spread, equalised_entropy=equal, clip_frac=float(abs(ratio - 1) > s.clip))
    if batch.ref_logps is not None:
        ref = batch.ref_logps[b, n]
        gap = ref[a] - new[a]
        numbers["kl"] = entropy(np.exp(new), np.exp(ref)) if s.kl == "exact" else math.exp(gap) - gap - 1
        total += s.kl_coef * numbers["kl"]
    return total, numbers


def loop(name, batch, logits, s, values=None):
    """(loss, metrics) one token at a time; the loss is numerator over denominator."""
    values = batch.values if values is None else values
    mask = np.ones((B, N), bool) if batch.mask is None else batch.mask
    episodes, rows, errors = [], [], []
    for b in range(B):
        turns = [token(batch, logits, s, b, n, name == "all_actions") for n in range(N) if mask[b, n]]
        rows += [numbers for _, numbers in turns]
        if turns:
            episodes.append([loss for loss, _ in turns])
        for n in np.flatnonzero(mask[b]):
            v, was, target = values[b, n], batch.old_values[b, n], batch.returns[b, n]
            near = was + min(max(v - was, -s.value_clip), s.value_clip)
            errors.append(max((v - target) ** 2, (near - target) ** 2) / 2)
    metrics = {k: np.mean([r[k] for r in rows]) for k in rows[0]}
    metrics["ratio_error_max"] = max(abs(r["ratio"] - 1) for r in rows)
    if name in ("dr_grpo", "all_actions"):
        return np.mean([sum(e) / s.z for e in episodes]), metrics
    if name == "grpo":
        return np.mean([np.mean(e) for e in episodes]), metrics
    return np.mean(sum(episodes, [])) + s.value_coef * np.mean(errors), metrics | {"value_loss": np.mean(errors)}


def objective(name, batch, logits, s=SETTINGS):
    return getattr(o, name)(batch, o.policy_logps(logits, 1.0), s)


@pytest.mark.parametrize("name", ["dr_grpo", "all_actions", "grpo", "ppo"])
@pytest.mark.parametrize(("seed", "settings"), [(0, SETTINGS), (1, OTHER), (3, SETTINGS)])
@pytest.mark.parametrize("ref", [True, False])
def test_loss_and_metrics_equal_a_loop(name, seed, settings, ref):
    batch, logits = random_batch(seed, ref=ref)
    numerator, denominator, metrics = objective(name, batch, jnp.asarray(logits, jnp.float32), settings)
    want, numbers = loop(name, batch, logits, settings)
    assert metrics.keys() == numbers.keys()
    assert float(numerator / denominator) == pytest.approx(want, rel=1e-5)
    for key, value in metrics.items():
        found = value if key.endswith("_max") else value[0] / value[1]
        assert float(found) == pytest.approx(numbers[key], rel=1e-5), key
    assert 0.2 < numbers["clip_frac"] < 0.9  # both sides of the clip were visited


def differences(f, x, step=1e-6):
    """The gradient of `f` at the float64 array x by central differences."""
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i], down[i] = up[i] + step, down[i] - step
        out[i] = (f(up) - f(down)) / (2 * step)
    return out


@pytest.mark.parametrize(
    ("name", "settings"), [("dr_grpo", SETTINGS), ("all_actions", OTHER), ("grpo", OTHER), ("ppo", OTHER)]
)
def test_gradient_by_finite_differences(name, settings):
    batch, logits = random_batch(5)
    want = differences(lambda x: loop(name, batch, x, settings)[0], logits)

    def loss(x, values):
        numerator, denominator, _ = objective(name, batch._replace(values=values), x, settings)
        return numerator / denominator

    with jax.enable_x64(True):
        got, of_values = jax.grad(loss, (0, 1))(jnp.asarray(logits), jnp.asarray(batch.values))
    np.testing.assert_allclose(got, want, atol=1e-8)
    assert np.abs(want).max() > 1e-4
    if name == "ppo":
        want = differences(lambda v: loop(name, batch, logits, settings, v)[0], batch.values)
        np.testing.assert_allclose(of_values, want, atol=1e-8)
    if batch.mask is not None:
        assert (np.asarray(got)[~batch.mask] == 0).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.0),  # inside the clip: -A * ratio
        (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2
        (0.5, 2.0, -1.0, -2.0),  # a good action that became rare is always pulled back
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (2.0, -2.0, 4.0, 2.0),
        (10.0, -2.0, 6.0, 0.0),  # the dual clip: 3 * 2
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, slope):
    f = lambda r: o.clipped_surrogate(r, jnp.float32(advantage), 0.2, 3.0)
    assert float(f(ratio)) == pytest.approx(loss, rel=1e-6)
    assert float(jax.grad(f)(ratio)) == pytest.approx(slope, abs=1e-6)


def test_loss_is_bounded_where_the_advantage_is_negative():
    ratio = jnp.exp(jnp.linspace(-20, 20, 401))
    loss = o.clipped_surrogate(ratio, jnp.full(401, -1.5), 0.2, 3.0)
    assert float(loss.max()) == pytest.approx(4.5) and float(loss.min()) == pytest.approx(1.2)


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_ratios_stay_finite(sign):
    """50 nats apart either way: the ratio stops at exp(+-20), and gradients are numbers."""
    batch, _ = random_batch(0)
    old = np.zeros((B, N, 4))
    old[..., 0] = -50.0 * sign
    batch = batch._replace(old_logps=jnp.asarray(log_softmax(old, -1)), actions=np.zeros((B, N), int))
    (value, metrics), grad = jax.value_and_grad(
        lambda x: (lambda out: (out[0], out[2]))(objective("dr_grpo", batch, x)), has_aux=True
    )(jnp.asarray(-old, jnp.float32))
    assert np.isfinite(value) and np.isfinite(grad).all()
    assert all(np.isfinite(np.asarray(v)).all() for v in jax.tree.leaves(metrics))
    assert float(metrics["ratio"][0] / (B * N)) == pytest.approx(math.exp(20 * sign), rel=1e-4)


def test_all_actions_is_what_sampled_actions_tend_to():
    """Its gradient is the mean, over all four actions as often as the policy makes them, of REINFORCE's."""
    batch, logits = random_batch(ref=False)
    batch, settings = batch._replace(old_logps=log_softmax(logits, -1)), o.Surrogate(z=1.0)
    got = jax.grad(lambda x: objective("all_actions", batch, x, settings)[0])(jnp.asarray(logits))
    sampled = np.zeros(logits.shape)
    for action in range(4):
        one = batch._replace(actions=np.full((B, N), action), advantages=batch.worth[..., action])
        grad = jax.grad(lambda x, one=one: objective("dr_grpo", one, x, settings)[0])(jnp.asarray(logits))
        sampled += np.exp(batch.old_logps[..., action])[..., None] * np.asarray(grad)
    np.testing.assert_allclose(got, sampled, atol=1e-6)


def test_nothing_gained_gives_no_gradient():
    batch, logits = random_batch(ref=False)
    batch = batch._replace(advantages=jnp.zeros((B, N)))
    for name in ("dr_grpo", "grpo"):
        grad = jax.grad(lambda x, name=name: objective(name, batch, x, o.Surrogate())[0])(jnp.asarray(logits))
        assert (grad == 0).all()


@pytest.mark.parametrize(
    ("near", "logits", "want"),
    [
        ([0, 0, 0, 0], [3.0, 3.0, 3.0, 3.0], math.log(4)),
        ([1, 0, 0, 0], [9.0, 2.0, 2.0, 2.0], math.log(3)),
        ([0, 0, 2, 2], [5.0, 5.0, -5.0, -5.0], 2 * math.log(2)),
        ([0, 1, 2, 2], [5.0, 1.0, 0.0, 0.0], math.log(2)),
        ([0, 1, 2, 2], [5.0, 1.0, 0.0, -60.0], 0.0),
        ([0, 1, 0, 1], [0.0, 0.0, math.log(3), 0.0], math.log(2) + math.log(4) - 0.75 * math.log(3)),
    ],
)
def test_equalised_entropy_by_hand(near, logits, want):
    got = o.equalised_entropy(o.policy_logps(jnp.array(logits), 1.0), jnp.array(near))
    assert float(got) == pytest.approx(want, abs=1e-6)


def test_equalised_entropy_never_moves_mass_between_different_tiles():
    batch, logits = random_batch(2)
    grad = jax.grad(lambda x: o.equalised_entropy(o.policy_logps(x, 1.0), batch.neighbours).sum())(jnp.asarray(logits))
    for role in range(3):
        member = batch.neighbours == role
        np.testing.assert_allclose((grad * member).sum(-1), 0, atol=1e-6)
        assert (np.abs(grad)[member & (member.sum(-1) == 1)[..., None]] < 1e-6).all()
    assert np.abs(grad).max() > 0.05


def test_policy_logps_are_those_of_the_sampled_distribution():
    logits = np.random.default_rng(1).normal(size=(7, 4))
    np.testing.assert_allclose(o.policy_logps(jnp.asarray(logits), 0.7), log_softmax(logits / 0.7, -1), rtol=1e-5)
    greedy = o.policy_logps(jnp.asarray(logits), 0.0)
    assert np.isfinite(greedy).all() and (np.exp(greedy).max(-1) == 1).all()


def test_kl_is_zero_at_the_reference():
    batch, logits = random_batch()
    here = o.policy_logps(jnp.asarray(logits, jnp.float32), 1.0)
    free = objective("dr_grpo", batch._replace(ref_logps=None), jnp.asarray(logits, jnp.float32))[0]
    same = objective("dr_grpo", batch._replace(ref_logps=here), jnp.asarray(logits, jnp.float32))[0]
    away = objective("dr_grpo", batch, jnp.asarray(logits, jnp.float32))[0]
    assert float(same) == pytest.approx(float(free), abs=1e-7) and float(away) > float(free) + 1e-4


@pytest.mark.parametrize("kind", ["exact", "k3"])
def test_kl_estimators_agree_on_average(kind):
    """k3 is unbiased: its mean over the policy's own actions is the exact divergence."""
    rng = np.random.default_rng(0)
    p, q = log_softmax(rng.normal(size=(2, 7, 4)), -1)
    want = (np.exp(p) * (p - q)).sum(-1)
    each = [np.asarray(o.kl_divergence(kind, jnp.asarray(p), jnp.asarray(q), np.full(7, a))) for a in range(4)]
    np.testing.assert_allclose(sum(np.exp(p[:, a]) * each[a] for a in range(4)), want, atol=1e-6)
    assert (np.array(each) >= 0).all()


@pytest.mark.parametrize("total", [2, 81, 500])
def test_cosine_schedule(total):
    steps = np.arange(total + 50)
    got = np.asarray(o.cosine(jnp.asarray(steps), total))
    np.testing.assert_allclose(got, 0.5 * (1 + np.cos(np.pi * np.minimum(steps / (total - 1), 1))), atol=1e-6)
    assert got[0] == 1 and (np.abs(got[total - 1 :]) < 1e-6).all()
    assert float(o.cosine(total - 1, total, 0.5)) == pytest.approx(0.5, abs=1e-6)


def test_schedules():
    steps = jnp.arange(12)
    np.testing.assert_allclose(o.schedule("linear", steps, 11), 1 - np.minimum(np.arange(12) / 10, 1), atol=1e-6)
    np.testing.assert_allclose(o.schedule("constant", steps, 11, warmup=4)[:5], [0.25, 0.5, 0.75, 1, 1], atol=1e-6)
    np.testing.assert_allclose(o.schedule("cosine", steps, 11), o.cosine(steps, 11), atol=1e-6)


def test_choices_by_hand():
    neighbours = jnp.array([[[1, 0, 2, 0], [0, 0, 0, 0], [2, 2, 2, 2]], [[1, 1, 2, 2], [2, 0, 0, 0], [1, 2, 0, 0]]])
    found = {k: tuple(map(int, v)) for k, v in o.choices(neighbours, jnp.array([[0, 1, 2], [3, 0, 2]])).items()}
    # Gold beside the player in three turns, taken in one; a choice between mold and other tiles in four, right in two.
    assert found == {"gold_taken": (1, 3), "mold_avoided": (2, 4)}
