"""Walks as text, and class means of their last token, against plain loops and transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import worlds
from helpers import run, torch_run
from safetensors import safe_open
from sklearn.metrics import roc_auc_score

from welfare_jax.envs import maze, walks
from welfare_jax.interp import extract, geometry
from welfare_jax.models import decoder, hf, hf_save, lora
from welfare_jax.text import pieces as text
from welfare_jax.text.wording import LETTERS
from welfare_jax.train import state

TURNS, PER_LENGTH = 5, 2


@pytest.fixture(scope="module")
def found():
    return walks.generate(maze.Params(size=31, turns=TURNS), PER_LENGTH, seed=1, batch=128)


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    """(graphdef, params) of the plain decoder."""
    world = worlds.make(tiny_tokenizer)
    return lora.merge(world.graphdef, state.join(world.trainable, world.frozen))


@pytest.fixture(scope="module")
def encoded(tiny_tokenizer, found):
    return extract.encode(text.build(tiny_tokenizer, size=31), found, chunk=8)


HELD = np.arange(3 * TURNS * PER_LENGTH) % 2 == 1


@pytest.fixture(scope="module")
def samples(tiny_tokenizer, found):
    return extract.of_walks(text.build(tiny_tokenizer, size=31), found)


@pytest.fixture(scope="module")
def data(samples):
    """Buckets whose last batches are filled up."""
    return extract.split(samples, HELD, batch=4)


def turns(pieces, found, i):
    """The observations and answers of walk `i`, as text."""
    obs = jax.tree.map(lambda a: a[i], found.observations)
    for t in range(found.length[i]):
        yield (
            pieces.wording.observation(obs.x[t], obs.y[t], obs.neighbours[t], obs.order[t]),
            LETTERS[found.actions[i, t]],
        )


def check_text(tokenizer, found, render, **template):
    pieces = text.build(tokenizer, size=31, template=template)
    tokens, mask = extract.encode(pieces, found)
    assert mask.shape == tokens.shape and len(tokens) == len(found.length)
    for i in range(len(tokens)):
        said = list(turns(pieces, found, i))
        want = tokenizer.encode(render(said), add_special_tokens=False)
        assert tokens[i][mask[i]].tolist() == want, i
        assert mask[i, : len(want)].all() and not mask[i, len(want) :].any()  # against the left edge
        assert tokenizer.decode([tokens[i][mask[i]][-1]]) == said[-1][1]  # ends in the letter, no end of turn after it
    return pieces


def by_template(tokenizer, **template):
    def render(said):
        messages = [{"role": "user", "content": said[0][0]}]
        for (_, letter), (question, _) in zip(said, said[1:]):
            messages += [{"role": "assistant", "content": letter}, {"role": "user", "content": question}]
        return (
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template)
            + said[-1][1]
        )

    return render


def test_walks_read_as_the_chat_template_says(tiny_tokenizer, found):
    check_text(tiny_tokenizer, found, by_template(tiny_tokenizer))


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_walks_read_as_real_chat_templates_say(name, found, shared_tokenizer):
    check_text(shared_tokenizer(name), found, by_template(shared_tokenizer(name)))


def test_walks_keep_the_empty_think_blocks_that_were_shown(found, shared_tokenizer):
    """With thinking off Qwen3 drops them from its history; an episode that was played does not."""

    def render(said):
        parts = [
            f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{a}<|im_end|>\n"
            for q, a in said
        ]
        return "".join(parts).removesuffix("<|im_end|>\n")

    assert not check_text(shared_tokenizer("qwen3"), found, render, enable_thinking=False).append_only


def test_chunks_do_not_matter(tiny_tokenizer, found, encoded):
    again = extract.encode(text.build(tiny_tokenizer, size=31), found, chunk=7)
    assert all(np.array_equal(a, b) for a, b in zip(again, encoded))


@pytest.mark.parametrize(("batch", "count"), [(4, 3), (7, 3), (64, 2), (1, 1), (16, 5)])
def test_buckets_lose_no_walk_and_count_none_twice(batch, count, samples):
    seen, slots = [], 0
    for bucket in extract.buckets(samples, batch, count):
        assert bucket.tokens.shape[1] <= batch and bucket.tokens.shape == bucket.mask.shape
        slots += bucket.tokens.size
        for t, m, read, label, unit, _ in zip(*(np.asarray(a).reshape(-1, *a.shape[2:]) for a in bucket)):
            assert read[0] == m.sum() - 1 and m[read[0]]
            if label[0] >= 0:
                seen.append((*t[m].tolist(), int(label[0]), int(unit)))
    rows = zip(samples.tokens, samples.mask, samples.label[:, 0], samples.unit)
    assert sorted(seen) == sorted((*t[m].tolist(), int(c), int(u)) for t, m, c, u in rows)
    assert (
        count == 1 or batch not in (4, 16) or slots < samples.tokens.size
    )  # short walks are not padded to the longest


def one_by_one(model, encoded):
    """resid_post [L, N, D] at the last token, one walk at a time, without padding."""
    rows = []
    for t, m in zip(*encoded):
        full = np.zeros((1, t.size), np.int32)
        full[0, : m.sum()] = t[m]
        rows.append(run(*model, full, read=jnp.array([m.sum() - 1])).residual[:, 0, 0])
    return np.stack(rows, 1)


@pytest.fixture(scope="module")
def activations(model, encoded):
    return one_by_one(model, encoded)


@pytest.fixture(scope="module")
def moments(model, data):
    return jax.jit(lambda p, d: extract.moments(decoder.bind(model[0], p), d, replicates=6))(model[1], data.fit)


def test_moments_equal_a_loop(moments, activations, found, samples):
    act, label, unit = activations[:, ~HELD], found.final[~HELD], samples.unit[~HELD]
    sign = np.asarray(extract.signs(jax.random.key(0), jnp.asarray(unit), 6))
    for c in range(3):
        mine = label == c
        assert moments.counts[c] == mine.sum() == PER_LENGTH * TURNS / 2
        np.testing.assert_allclose(moments.origin + moments.sums[:, c] / mine.sum(), act[:, mine].mean(1), atol=1e-5)
        want = np.einsum("lnd,rn->rld", act[:, mine] - moments.origin[:, None], sign[:, mine])
        np.testing.assert_allclose(moments.swings[:, :, c], want, atol=1e-4)
        np.testing.assert_array_equal(moments.swing_counts[:, c], sign[:, mine].sum(1))


def test_permuted_labels_stay_within_letter_and_length(model, data, activations, found, samples):
    """Strata keep their classes, filling has none, and sums under permuted labels equal a loop over walks."""
    key, count = jax.random.key(4), 5
    again = extract.relabelled(jax.random.fold_in(key, 2), data.fit, count)
    letter = found.actions[np.arange(len(found.length)), found.length - 1]
    place = {int(u): i for i, u in enumerate(samples.unit)}
    unit = np.concatenate([np.asarray(b.unit).reshape(-1) for b in data.fit])
    filling = np.concatenate([np.asarray(b.label).reshape(-1) for b in data.fit]) < 0
    order, permuted = np.array([place[int(u)] for u in unit[~filling]]), np.asarray(again)[:, ~filling]
    assert (np.asarray(again)[:, filling] == -1).all() and len(np.unique(order)) == len(order)
    for row in permuted:
        for stratum in {*zip(letter[order], found.length[order])}:
            mine = (letter[order] == stratum[0]) & (found.length[order] == stratum[1])
            assert sorted(row[mine]) == sorted(found.final[order][mine])
    assert (permuted != found.final[order]).any()
    program = jax.jit(lambda p, d: extract.moments(decoder.bind(model[0], p), d, key=key, permutations=count))
    moments, act = program(model[1], data.fit), activations[:, order]
    for c in range(3):
        want = np.einsum("lnd,kn->kld", act - moments.origin[:, None], permuted == c)
        np.testing.assert_allclose(moments.permuted[:, :, c], want, atol=1e-4)


def test_live_point(model, data, moments, activations, found):
    axes = np.random.default_rng(1).normal(size=(2, 3, 24)).astype("f4")
    live = jax.jit(lambda p, d, a: extract.live(decoder.bind(model[0], p), d, a))(model[1], data, axes)
    for base, want in geometry.gold_mold_cosines(moments.sums, moments.counts).items():
        np.testing.assert_allclose(live[f"cos_{base}"], want, atol=1e-5)
    act, label = activations[:, HELD], found.final[HELD]
    for name, c in (("mold", geometry.MOLD), ("gold", geometry.GOLD)):
        v = np.asarray(geometry.difference_in_means(moments.sums, moments.counts, c))
        np.testing.assert_allclose(live[f"norm_{name}"], np.linalg.norm(v, axis=-1), rtol=1e-5)
        proj = np.einsum("lnd,ld->ln", act, v)
        np.testing.assert_allclose(live[f"auroc_{name}"], [roc_auc_score(label == c, p) for p in proj], atol=1e-5)
        assert live[f"d_{name}"].shape == (3,) and live[f"axes_{name}"].shape == (2, 3)
        want = (v * axes).sum(-1) / np.linalg.norm(v, axis=-1) / np.linalg.norm(axes, axis=-1)
        np.testing.assert_allclose(live[f"axes_{name}"], want, atol=1e-5)


def test_pairs_share_class_and_letter(tiny_tokenizer):
    many = walks.generate(maze.Params(size=31, turns=2), 8, seed=3, batch=128)
    samples = extract.of_walks(text.build(tiny_tokenizer, size=31), many)
    assert len(set(samples.unit.tolist())) == len(samples.unit)
    letter = many.actions[np.arange(len(samples.unit)), many.length - 1]
    place = {int(u): i for i, u in enumerate(samples.unit)}
    for u, i in place.items():
        j = place[u ^ 1]
        assert many.final[i] == many.final[j] and letter[i] == letter[j]
    sign = np.asarray(extract.signs(jax.random.key(1), jnp.asarray(samples.unit), 64))
    order = np.argsort(samples.unit)
    assert set(np.unique(sign)) == {-1.0, 1.0} and (sign[:, order[::2]] == -sign[:, order[1::2]]).all()
    assert np.abs(np.corrcoef(sign[:, order[::2]].T) - np.eye(len(order) // 2)).max() < 0.7


def test_activations_equal_transformers(model, encoded, activations, tiny_tokenizer, tmp_path):
    """The same weights in transformers, the block outputs caught by forward hooks."""
    from transformers import AutoModelForCausalLM

    spec = decoder.static(model[0])[0]
    hf_save.save_hf(hf.LM(*model, spec, tiny_tokenizer, "nowhere"), tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32).eval()
    tokens, mask = encoded
    with torch.no_grad():
        stream = torch_run(theirs, tokens, mask)[1].numpy()
    want = stream[:, np.arange(len(tokens)), mask.sum(1) - 1]
    assert want.std() > 0.1
    np.testing.assert_allclose(activations, want, atol=1e-4)


def test_scores_equal_numpy(model, data, activations, found, encoded):
    directions = np.random.default_rng(0).normal(size=(2, *activations.shape[::2])).astype("f4")
    program = jax.jit(lambda p, d, v: extract.scores(decoder.bind(model[0], p), d, v))
    proj, cos, labels = jax.device_get(program(model[1], data.held, directions))
    assert proj.shape == cos.shape == (3, 2, len(labels))
    rows = np.flatnonzero(HELD)
    order = rows[np.argsort(encoded[1][rows].sum(1), kind="stable")]  # as the buckets have them
    real = labels >= 0
    np.testing.assert_array_equal(labels[real], found.final[order])
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    want = np.einsum("lnd,kld->lkn", activations[:, order], unit)
    np.testing.assert_allclose(proj[:, :, real], want, atol=1e-4)
    np.testing.assert_allclose(
        cos[:, :, real], want / np.linalg.norm(activations[:, order], axis=-1)[:, None], atol=1e-5
    )


def test_planted_directions_are_found():
    """Blocks that write nothing, and last tokens whose embeddings differ between the classes by known vectors."""
    from helpers import tiny_model

    graphdef, params = tiny_model("qwen3", vocab=90)
    for name, part in (("attn", "o"), ("mlp", "down")):
        params["blocks"][name][part]["kernel"] *= 0
    rng = np.random.default_rng(0)
    planted = {c: 3 * v / np.linalg.norm(v) for c, v in zip((geometry.MOLD, geometry.GOLD), rng.normal(size=(2, 24)))}
    embed = rng.normal(size=(90, 24)) * 0.2 + 2 * rng.normal(size=24)
    for c, v in planted.items():
        embed[30 * c : 30 * c + 30] += v
    params["embed"] = jnp.asarray(embed, jnp.float32)
    labels = np.repeat([0, 1, 2], 60)
    length = rng.integers(3, 9, 180)
    tokens, mask = rng.integers(0, 90, (180, 8)), np.arange(8) < length[:, None]
    tokens[np.arange(180), length - 1] = 30 * labels + rng.integers(0, 30, 180)
    samples = extract.Samples(
        tokens.astype(np.int32), mask, length[:, None] - 1, labels[:, None], np.arange(180, dtype=np.int32)
    )
    sums, counts = extract.moments(decoder.bind(graphdef, params), extract.buckets(samples, 32))[:2]
    for c, v in planted.items():
        got = geometry.difference_in_means(sums, counts, c, "path")
        assert (geometry.cosine(got, jnp.asarray(v)[None]) > 0.99).all()
        np.testing.assert_allclose(np.linalg.norm(got, axis=-1), 3, rtol=0.1)
        other = planted[3 - c]
        rest = geometry.difference_in_means(sums, counts, c, "rest")
        assert (geometry.cosine(rest, jnp.asarray(v - other / 2)[None]) > 0.99).all()


def test_memory_does_not_grow_with_the_number_of_walks(model):
    """Working memory of the compiled passes for 8 and for 64 batches of the same shape."""

    def program(n):
        tokens = jax.ShapeDtypeStruct((n, 4, 60), jnp.int32)
        part = extract.Bucket(
            tokens, jax.ShapeDtypeStruct((n, 4, 60), bool), *(jax.ShapeDtypeStruct((n, 4, 1), jnp.int32),) * 2,
            *(jax.ShapeDtypeStruct((n, 4), jnp.int32),) * 2,
        )  # fmt: skip
        f = jax.jit(lambda p, d: extract.moments(decoder.bind(model[0], p), d, replicates=8, permutations=8))
        return f.lower(model[1], (part,)).compile().memory_analysis().temp_size_in_bytes

    few, many = program(8), program(64)
    assert many - few < 0.02 * few


def test_several_hook_points_take_one_forward(model, data, moments):
    """Means at three hook points together; resid_post of a block is resid_pre of the next."""
    hooks = ("resid_post", "resid_pre", "mlp_neurons")
    out = jax.jit(lambda p, d: extract.moments(decoder.bind(model[0], p), d, hooks))(model[1], data.fit)
    np.testing.assert_allclose(out[0].sums, moments.sums, atol=1e-4)
    np.testing.assert_allclose(out[1].sums[1:], out[0].sums[:-1], atol=1e-4)
    assert out[2].sums.shape == (3, 3, 40) and (out[2].counts == moments.counts).all()


def test_stored_activations(model, data, activations, samples, tmp_path):
    """All of them, each once, with label and unit; the file says where they were read."""
    program = jax.jit(lambda part: extract.activations(decoder.bind(*model), part))
    assert extract.store(program, data.fit, tmp_path / "acts") == (~HELD).sum()
    rows = []
    for path in sorted((tmp_path / "acts").iterdir()):
        with safe_open(path, "numpy") as f:
            assert f.metadata() == {"hook": "resid_post"}
            rows += zip(f.get_tensor("units").tolist(), f.get_tensor("labels").tolist(), f.get_tensor("activations"))
    where = {int(u): i for i, u in enumerate(samples.unit)}
    assert sorted(u for u, _, _ in rows) == sorted(samples.unit[~HELD].tolist())
    for unit, label, act in rows:
        assert label == samples.label[where[unit], 0]
        np.testing.assert_allclose(act, activations[:, where[unit]], atol=1e-5)
