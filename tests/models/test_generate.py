"""Generation against the full forward, one token at a time, and against transformers."""

import jax
import numpy as np
import pytest
import torch
from helpers import VOCAB, hf_model, padded, params, run, save, tiny_model
from scipy.stats import chisquare

from welfare_jax.errors import InputError
from welfare_jax.models import generate as g
from welfare_jax.models import stops
from welfare_jax.models.interventions import ablate, add, combine

KINDS = ("qwen3", "gemma3")
NEW, D = 7, 24
KEY = jax.random.key(0)
TOKENS, MASK = padded((11, 6, 8), "-lr", 11)
RNG = np.random.default_rng(5)
VECTORS, LAYERS, SCALES = RNG.normal(size=(3, D)).astype("f4"), np.array([0, 2, -1]), np.array([6.0, -4.0, 5.0], "f4")
WHERE = np.zeros_like(MASK)
WHERE[0, -1] = WHERE[1, -2:] = WHERE[2, 3] = True


@pytest.fixture(scope="module")
def models():
    return {kind: tiny_model(kind, tied=False) for kind in KINDS}  # tied, it would repeat the last word


def sample(model, tokens=TOKENS, mask=MASK, **kw):
    return jax.device_get(g.generate(*model, tokens, mask, KEY, **dict(max_new_tokens=NEW) | kw))


def by_hand(model, steer=None, where=WHERE, rows=range(3), new=NEW):
    """Greedy tokens [rows, NEW]: each row alone, its real tokens alone, the whole text again for every token."""
    out = []
    for row in rows:
        text, on = list(TOKENS[row][MASK[row]]), list(where[row][MASK[row]])
        width = len(text) + new
        for _ in range(new):
            padding = width - len(text)
            tokens, mask = np.array([text + [0] * padding]), np.arange(width)[None] < len(text)
            iv = steer(row, np.array([on + [False] * padding])) if steer else None
            logits = run(*model, tokens, mask=mask, interventions=iv).logits[0, len(text) - 1]
            text, on = [*text, int(np.argmax(logits))], [*on, True]
        out.append(text[-new:])
    return np.array(out)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_the_full_forward(kind, models):
    """Padded on either side or not at all; Gemma's windows are shorter than the text."""
    new, kept = sample(models[kind])
    np.testing.assert_array_equal(new, by_hand(models[kind]))
    assert kept.all() and new.dtype == np.int32
    assert len(np.unique(new)) > 3  # a model that repeats one word would agree with much


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_transformers(kind, tmp_path):
    model = hf_model(kind)
    graphdef, weights, _ = params(save(model, tmp_path))
    tokens, mask = padded((11, 6), "-l", 11)
    settings = dict(do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0, eos_token_id=None)
    with torch.no_grad():
        want = model.generate(torch.tensor(tokens).long(), attention_mask=torch.tensor(mask).long(), **settings)
    np.testing.assert_array_equal(sample((graphdef, weights), tokens, mask)[0], want[:, 11:].numpy())


def test_left_and_right_padding_agree(models):
    (left, lmask), (right, rmask) = (padded((9, 4), sides, 9, seed=3) for sides in ("-l", "-r"))
    assert not np.array_equal(lmask, rmask)
    a, b = (sample(models["gemma3"], *x, temperature=0.7)[0] for x in ((left, lmask), (right, rmask)))
    np.testing.assert_array_equal(a, b)


def test_rows_do_not_see_each_other(models):
    whole = sample(models["gemma3"])[0]
    for row in range(3):
        alone = sample(models["gemma3"], TOKENS[[row] * 3], MASK[[row] * 3])[0]
        np.testing.assert_array_equal(alone, whole[[row] * 3])


def test_stop_tokens_end_a_row_and_are_kept(models):
    free = sample(models["qwen3"])[0]
    ends = (int(free[0, 2]), int(free[1, 4]))
    new, kept = sample(models["qwen3"], stop=ends)
    for row in range(3):
        length = next((i + 1 for i, t in enumerate(free[row]) if t in ends), NEW)
        np.testing.assert_array_equal(kept[row], np.arange(NEW) < length)
        np.testing.assert_array_equal(new[row], np.where(kept[row], free[row], 0))
    assert kept.sum(1)[0] <= 3 and kept.sum(1)[1] <= 5


def test_the_loop_ends_with_its_last_row(models, monkeypatch):
    steps = []

    def counted(*args):
        jax.debug.callback(lambda: steps.append(1))
        return unembed(*args)

    unembed = g.decoder.unembed
    free = sample(models["qwen3"], max_new_tokens=40)[0]
    stop = tuple(int(free[row, row + 1]) for row in range(3))
    monkeypatch.setattr(g.decoder, "unembed", counted)
    _, kept = sample(models["qwen3"], max_new_tokens=40, stop=stop)
    jax.effects_barrier()
    assert len(steps) == kept.sum(1).max() <= 4


def test_a_row_without_a_prompt_says_nothing(models):
    mask = MASK.copy()
    mask[1] = False
    new, kept = sample(models["qwen3"], mask=mask)
    assert not kept[1].any() and not new[1].any()
    np.testing.assert_array_equal(new[[0, 2]], sample(models["qwen3"])[0][[0, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_steering_equals_adding_at_every_generated_token(kind, models):
    """A vector, a layer and a strength a row; in the prompt where `where` says, afterwards at every token."""
    new, _ = sample(models[kind], interventions=add(VECTORS, LAYERS, SCALES, WHERE))
    want = by_hand(models[kind], lambda row, on: add(VECTORS[row], int(LAYERS[row]), SCALES[row], on))
    np.testing.assert_array_equal(new, want)
    assert (new != sample(models[kind])[0]).any(1).all()


def test_ablation_and_addition_together(models):
    direction = VECTORS[1]
    both = combine(ablate(direction, where=WHERE), add(VECTORS, LAYERS, SCALES, WHERE))
    new, _ = sample(models["qwen3"], interventions=both)

    def steer(row, on):
        return combine(ablate(direction, where=on), add(VECTORS[row], int(LAYERS[row]), SCALES[row], on))

    np.testing.assert_array_equal(new, by_hand(models["qwen3"], steer))


def test_the_prompt_alone_or_the_answer_alone(models):
    """Rows of one batch: steered in the prompt only, in the answer only, in both."""
    on = np.array([1.0, 0.0, 1.0], "f4"), np.array([0.0, 1.0, 1.0], "f4")
    prompt, answer = (add(VECTORS, LAYERS, s * SCALES, w) for s, w in zip(on, (WHERE, None)))
    new, _ = sample(models["qwen3"], interventions=prompt, new_interventions=answer)

    def steer(row, where):
        where[:, TOKENS[row][MASK[row]].size :] &= bool(on[1][row])
        where[:, : TOKENS[row][MASK[row]].size] &= bool(on[0][row])
        return add(VECTORS[row], int(LAYERS[row]), SCALES[row], where)

    np.testing.assert_array_equal(new, by_hand(models["qwen3"], steer))


def test_each_row_by_its_own_settings(models):
    """Greedy, sampled and filtered rows in one batch; a row's own key alone decides what it says."""
    keys, plain = jax.random.split(KEY, 3), sample(models["qwen3"])[0]
    settings = dict(temperature=np.array([0.0, 5.0, 5.0], "f4"), top_k=np.array([0, 0, 1]), top_p=np.ones(3, "f4"))
    model = models["qwen3"]
    whole = np.asarray(g.generate(*model, TOKENS, MASK, keys, max_new_tokens=NEW, **settings)[0])
    np.testing.assert_array_equal(whole[[0, 2]], plain[[0, 2]])  # the most likely one of one
    assert (whole[1] != plain[1]).any()
    order = np.array([1, 2, 0])
    moved = {k: v[order] for k, v in settings.items()}
    again = g.generate(*model, TOKENS[order], MASK[order], keys[order], max_new_tokens=NEW, **moved)[0]
    np.testing.assert_array_equal(again, whole[order])


def test_stop_strings_end_a_row(models, tiny_tokenizer):
    """Through the automaton's table: here "bc", cut by tokens or within one, among made-up tokens."""
    free = sample(models["qwen3"], temperature=3.0, max_new_tokens=30)[0]
    text = {i: "abcd"[i % 4] + "xbc"[i % 3] for i in range(VOCAB)}
    step = stops._automaton([b"bc"])
    table = np.zeros((len(step), VOCAB), np.int16)
    for state in range(len(step)):
        for i, said in text.items():
            now = state
            for byte in said.encode():
                now = now if now == stops.DONE else step[now, byte]
            table[state, i] = now
    new, kept = sample(models["qwen3"], temperature=3.0, max_new_tokens=30, stop_strings=table)
    lengths = kept.sum(1)
    for row in range(3):
        said = ["".join(text[i] for i in free[row][:n]) for n in range(1, 31)]
        want = next((n for n, s in enumerate(said, 1) if "bc" in s), 30)
        assert lengths[row] == want
        np.testing.assert_array_equal(new[row][:want], free[row][:want])
    assert lengths.min() < 30


@pytest.mark.parametrize("more", [-3, 0, 5])
def test_stop_strings_of_a_tokenizer_of_another_size(more, models):
    """With ids that the model has no rows for, and without ids for all of its rows: those end nothing."""
    free = sample(models["qwen3"])[0]
    table = np.zeros((1, VOCAB + more), np.int16)
    table[0, VOCAB:] = stops.DONE
    table[0, ends := int(free[0, 2])] = stops.DONE
    _, kept = sample(models["qwen3"], stop_strings=table)
    for row in range(3):
        assert kept[row].sum() == next((i + 1 for i, t in enumerate(free[row]) if t == ends), NEW)


def test_strength_zero_is_no_steering(models):
    scales = np.array([0.0, 5.0, 0.0], "f4")
    new, _ = sample(models["qwen3"], interventions=add(VECTORS, 1, scales))
    plain = sample(models["qwen3"])[0]
    np.testing.assert_array_equal(new[[0, 2]], plain[[0, 2]])
    assert (new[1] != plain[1]).any()


def test_one_compilation_for_all_strengths_layers_vectors_and_settings(models):
    compiled = g._generate._cache_size
    before = compiled()
    for i, temperature in enumerate((0.0, 0.7, 1, np.float32(0.3))):
        iv = add((i + 1) * VECTORS, np.full(3, i % 3), i * SCALES, WHERE)
        kw = dict(temperature=temperature, top_k=i, top_p=1 - 0.1 * i, interventions=iv)
        sample(models["qwen3"], max_new_tokens=NEW + 1, **kw)
    assert compiled() == before + 1


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_sampling_frequencies(temperature, models):
    """2,000 first tokens against the softmax of the logits, by chi-square at one in a thousand."""
    n = 2000
    logits = np.asarray(run(*models["qwen3"], TOKENS[:1]).logits[0, -1], "f8") / temperature
    p = np.exp(logits - logits.max())
    p /= p.sum()
    new, _ = sample(
        models["qwen3"], np.repeat(TOKENS[:1], n, 0), np.ones((n, 11), bool), max_new_tokens=1, temperature=temperature
    )
    counts = np.bincount(new[:, 0], minlength=VOCAB)
    common = n * p >= 5
    observed = [*counts[common], counts[~common].sum()]
    expected = [*(n * p[common]), n * p[~common].sum()]
    assert chisquare(observed, np.array(expected) * n / np.sum(expected)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(max_new_tokens=0), "max_new_tokens=0"),
        (dict(temperature=-0.5), "temperature=-0.5"),
        (dict(top_k=-1), "top_k=-1"),
        (dict(top_p=0.0), "top_p=0.0"),
        (dict(temperature=np.ones(2)), "temperature: has shape (2,)"),
        (dict(tokens=np.where(MASK, TOKENS, VOCAB)), f"id {VOCAB} at (1, "),
        (dict(tokens=TOKENS.astype("f4")), "float32"),
        (dict(tokens=TOKENS[0]), "tokens"),
        (dict(mask=MASK[:, :-1]), "mask"),
        (dict(interventions=add(np.ones(D + 1), 1)), "vector"),
        (dict(interventions=add(np.ones(D), 3)), "layer 3"),
        (dict(interventions=add(np.ones(D), 1, where=WHERE[:, 1:])), "where"),
        (dict(interventions=add(VECTORS[:2], 1)), "vector"),
    ],
)
def test_bad_arguments(change, said, models):
    with pytest.raises(InputError) as error:
        sample(models["qwen3"], **change)
    assert "\n" not in str(error.value) and said in str(error.value)
