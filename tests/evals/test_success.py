"""A model trained here from scratch: success words under steering along its own success direction, and at random."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from welfare_jax import mesh
from welfare_jax.evals import cells, directions, text
from welfare_jax.interp import extract
from welfare_jax.models import chat, decoder
from welfare_jax.models.spec import small

GOOD, BAD = ("glad", "proud", "happy", "relieved"), ("sad", "sorry", "angry", "ashamed")
NAMES, TILES = ("Mia", "Tom", "Zoe", "Max"), ("\U0001f9fe", "\U0001f4d0", "\U0001f5c2")
ALPHAS = (-0.6, -0.3, 0.0, 0.3, 0.6)


def story(rng):
    """(an attempt, how it went and how it was taken, up to the last feeling; whether it went well)."""
    name, tile, well = NAMES[rng.integers(4)], TILES[rng.integers(3)], bool(rng.integers(2))
    went = f" It went {'well' if well else 'badly'}." if rng.random() < 0.3 else ""
    return f"{name} wanted to find a {tile}.{went} {name} was {feeling(rng, well)}. {name} felt", well


def feeling(rng, well):
    return (GOOD if well else BAD)[rng.integers(4)]


@pytest.fixture(scope="module")
def trained(tiny_tokenizer):
    """(graphdef, params) of two layers after 150 steps on such stories."""
    graphdef, params = decoder.init(
        small(len(tiny_tokenizer), layers=2, width=96, heads=2, kv_heads=1, head_dim=32, mlp=128, theta=1e4),
        jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    told = [story(rng) for _ in range(1024)]
    whole = [f"<|bos|>{begun} {feeling(rng, well)}.<|end|>" for begun, well in told]
    rows = [tiny_tokenizer.encode(t, add_special_tokens=False) for t in whole]
    tokens, mask = (jnp.asarray(a) for a in chat.pad(rows))
    tx = optax.adam(3e-3)

    def loss(params, t, m):
        logp = jax.nn.log_softmax(decoder.forward(graphdef, params, t, mask=m).logits[:, :-1])
        return -jnp.where(m[:, :-1], jnp.take_along_axis(logp, t[:, 1:, None], -1)[..., 0], 0).sum() / m.sum()

    @jax.jit
    def step(carry, index):
        params, opt = carry
        grad = jax.grad(loss)(params, tokens[index], mask[index])
        change, opt = tx.update(grad, opt)
        return (optax.apply_updates(params, change), opt), None

    order = jax.random.randint(jax.random.key(1), (150, 32), 0, len(rows))
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), order)
    return graphdef, params


@pytest.mark.slow
def test_success_words_follow_the_success_direction_and_no_random_one(trained, tiny_tokenizer):
    """The direction is a difference in means over the model's own stories, where a feeling is about to be named."""
    graphdef, params = trained
    rng = np.random.default_rng(1)
    stories = [story(rng) for _ in range(256)]
    rows = [tiny_tokenizer.encode("<|bos|>" + told, add_special_tokens=False) for told, _ in stories]
    tokens, mask = chat.pad(rows)
    label = np.array([[1 if well else 2] for _, well in stories], np.int32)
    last = np.full((len(rows), 1), tokens.shape[1] - 1, np.int32)
    samples = extract.Samples(tokens, mask, last, label, np.arange(len(rows), dtype=np.int32))
    found = extract.moments(decoder.bind(graphdef, params), extract.buckets(samples, 64, 1))
    means = found.sums / found.counts[:, None]
    success = directions.Direction(np.asarray(means[:, 1] - means[:, 2]), 0, "vector", "success")
    bank = directions.with_controls({"success": success}, 12, 0, 0)
    loaded = {"untrained": cells.Model(graphdef, params, tiny_tokenizer, "x")}
    run = cells.Device(loaded, directions.Bank(bank, "resid_post"), mesh.make(), 512, 1, {"chat_template": PLAIN})
    grid = [cells.Cell("untrained", name, 0, a, "assistant") for name in bank for a in ALPHAS]
    begun = [f"{n} wanted to find a {t}." for n in NAMES for t in TILES]
    asked = [cells.Row(f"{2 * k:08x}{i:08x}", c, begun[k % 12]) for i, c in enumerate(grid) for k in range(72)]
    said = {row.key: out for batch in run.speak(asked, (), 14, 0.7) for row, out in batch}
    share = {}
    for c in grid:
        mine = [said[row.key] for row in asked if row.cell == c]
        good, bad = text.share(mine, {*GOOD, "well"}), text.share(mine, {*BAD, "badly"})
        share.setdefault(c.vector, []).append(good / (good + bad))
    assert (np.diff(share["success"]) > 0).all(), share["success"]
    assert share["success"][0] < 0.2 and share["success"][-1] > 0.8, share["success"]
    slopes = {name: np.polyfit(ALPHAS, y, 1)[0] for name, y in share.items()}
    cohort = np.array([v for name, v in slopes.items() if name != "success"])
    assert slopes["success"] > 1.5 * np.abs(cohort).max(), slopes
    assert abs(cohort.mean()) < 2.5 * cohort.std(ddof=1) / len(cohort) ** 0.5, slopes


PLAIN = "{{ bos_token }}{{ messages[0]['content'] }}"
