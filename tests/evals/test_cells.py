"""Rows of many cells in one batch against rows alone, against transformers with a hook, and one compilation."""

import copy
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from helpers import _hooked, hf_model, save, tiny_model

from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.evals import cells, confidence, directions
from welfare_jax.models import chat, generate, hf, stops
from welfare_jax.text import pieces
from welfare_jax.train import checkpoints

MESH = mesh_lib.make()


def bank(layers, width, names=("v", "w"), scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    values = {n: scale * rng.normal(size=(layers, width)).astype("f4") for n in names}
    return directions.Bank({n: directions.Direction(v, 1, "vector", n) for n, v in values.items()}, "resid_post")


def device(graphdef, params, tokenizer, found, **kw):
    loaded = {"untrained": cells.Model(graphdef, params, tokenizer, "x")}
    return cells.Device(loaded, found, MESH, **dict(batch=8, buckets=2, template={}) | kw)


def rows_of(grid, talks):
    return [cells.Row(f"{i:08x}{j:08x}", c, t) for i, c in enumerate(grid) for j, t in enumerate(talks)]


def collect(batches):
    return {row.key: value for batch in batches for row, value in batch}


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    graphdef, params = tiny_model("qwen3", vocab=len(tiny_tokenizer))
    return graphdef, params, tiny_tokenizer, bank(3, 24, scale=3.0)


def test_p_true_agrees_with_transformers(tiny_tokenizer, tiny_tokenizer_dir, tmp_path):
    """Five strengths, two layers, every place: log P of both words to 1e-4 of a forward hook on the torch model."""
    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer))
    lm = hf.load(save(model, tmp_path, tiny_tokenizer_dir))
    found = bank(lm.spec.layers, lm.spec.width, ("v",), scale=0.5)
    run = device(lm.graphdef, lm.params, lm.tokenizer, found, buckets=1)
    talks = [
        [{"role": "user", "content": "What lies north?"}, {"role": "assistant", "content": said},
         {"role": "user", "content": "Is it true?"}]
        for said in ("a goal", "the wind pushed us on and on")
    ]  # fmt: skip
    yes, no = ([run.tokens(w)[0] for w in words] for words in ((" yes", "yes"), (" no", "no")))
    assert not set(yes) & set(no)
    grid = [cells.Cell("untrained", "v", layer, alpha, where)
            for layer in (0, 2) for alpha in (-4.0, -2.0, 0.0, 2.0, 4.0) for where in cells.WHERE]  # fmt: skip
    rows = rows_of(grid, talks)
    ours = collect(run.read(rows, (), [[(i,) for i in ids] for ids in (yes, no)]))
    assert len(ours) == len(rows)
    seen = set()
    for row in rows:
        ids = lm.tokenizer.encode(chat.render(lm.tokenizer, row.talk), add_special_tokens=False)
        said = np.array(chat.assistant_tokens(lm.tokenizer, [row.talk], opening=False)[0])
        assert lm.tokenizer.decode(np.array(ids)[said]).strip() == row.talk[1]["content"]
        last = np.arange(len(ids)) == len(ids) - 1
        on = {"assistant": said | last, "generation": said, "readout": last, "prompt": ~last}[row.cell.where]
        push = row.cell.alpha * torch.as_tensor(on[:, None] * found.directions["v"].values[row.cell.layer])
        edit = lambda layer, x, push=push, at=row.cell.layer: x + push.to(x.dtype) if layer == at else x
        with torch.no_grad(), _hooked(model, [("resid_post", edit)]):
            logp = torch.log_softmax(model(torch.as_tensor([ids])).logits[0, -1].double(), -1)
        want = [torch.logsumexp(logp[list(x)], 0).item() for x in (yes, no)]
        np.testing.assert_allclose(ours[row.key], want, atol=1e-4)
        seen.add(round(want[0], 3))
    assert len(seen) > 20  # the strengths, layers and places differ


def test_cells_together_are_cells_alone(world):
    """One row of a mixed batch says what `generate` says for it alone; places steer where they say."""
    graphdef, params, tokenizer, found = world
    talks = ["How did it go?", "What do you see here, and what lies north of the long walk?"]
    grid = [cells.zero("untrained"), *(cells.Cell("untrained", v, layer, a, w) for v in ("v", "w")
            for layer, a in ((0, 2.0), (2, -3.0)) for w in cells.WHERE)]  # fmt: skip
    rows = rows_of(grid, talks)
    run = device(graphdef, params, tokenizer, found)
    said = collect(run.speak(rows, (), 6, 0.0))
    new = jax.jit(lambda v, a: a * v)
    for row in rows[::3]:
        tokens, mask = chat.encode(tokenizer, [row.talk])
        c = row.cell
        vector = found.directions[c.vector].values[c.layer] if c.vector else np.zeros(24, "f4")
        where = np.zeros_like(mask)
        if c.where == "prompt":
            where[:, :-1] = True
        elif c.where != "generation":
            where[:, -1] = True
        on = c.alpha if c.where in ("assistant", "generation") else 0.0
        ids, kept = generate.generate(
            graphdef, params, tokens, mask, jax.random.key(0), max_new_tokens=6, stop=stops.stop_ids(tokenizer),
            interventions=cells.interventions.add(new(vector, c.alpha), c.layer, 1.0, where),
            new_interventions=cells.interventions.add(vector, c.layer, on),
        )  # fmt: skip
        assert said[row.key] == tokenizer.decode(np.asarray(ids)[0][np.asarray(kept)[0]], skip_special_tokens=True)
    assert len({said[r.key] for r in rows if r.talk == talks[0]}) > 5


def test_a_sampled_answer_does_not_depend_on_its_company(world):
    graphdef, params, tokenizer, found = world
    grid = [cells.zero("untrained"), cells.Cell("untrained", "v", 1, 1.0, "assistant")]
    rows = rows_of(grid, ["How did it go?", "What happened?", "Who?"])
    run = device(graphdef, params, tokenizer, found, buckets=1)
    whole = collect(run.speak(rows, (), 5, 1.0))
    part = collect(run.speak(rows, {row.key for row in rows[:4]}, 5, 1.0))
    assert part == {row.key: whole[row.key] for row in rows[4:]}
    assert len(set(whole.values())) > 1


@pytest.mark.slow
def test_a_grid_of_288_cells_compiles_the_forward_once(tiny_tokenizer):
    """36 layers x 4 strengths x 2 vectors over 32 prompts, read out and sampled."""
    depth = 36
    graphdef, params = tiny_model(
        "qwen3", vocab=len(tiny_tokenizer), width=8, mlp=8, head_dim=4, heads=2, kv_heads=1, layers=depth,
        ropes=(cells_rope(),), rope_of=(0,) * depth, windows=(0,) * depth,
    )  # fmt: skip
    found = bank(depth, 8)
    grid = cells.grid(["untrained"], found, "all", (-4, -2, 2, 4), ["assistant"])[1:]
    assert len(grid) == 36 * 4 * 2
    talks = [f"What lies {w} of ({i}, {2 * i})?" for i, w in zip(range(32), ["north", "south"] * 16)]
    rows = rows_of(grid, talks)
    run = device(graphdef, params, tiny_tokenizer, found, buckets=1, batch=512)
    before = cells.read_out._cache_size(), generate._generate._cache_size()
    logp = collect(run.read(rows, (), [[(5,)], [(6,)]]))
    assert len(logp) == 9216 and np.isfinite(list(logp.values())).all()
    assert len(collect(run.speak(rows[::18], (), 2, 0.7))) == 512  # every cell; it is the forward that costs
    assert (cells.read_out._cache_size(), generate._generate._cache_size()) == (before[0] + 1, before[1] + 1)


def cells_rope():
    from welfare_jax.models.spec import Rope

    return Rope(1e4, 4)


def test_projections_are_those_of_the_stream(world):
    """Means over the tokens that open the next answer, on unit vectors, at the layers asked for."""
    graphdef, params, tokenizer, found = world
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "me"},
            {"role": "user", "content": "That is correct."}]  # fmt: skip
    run = device(graphdef, params, tokenizer, found)
    rows = [cells.Row("0" * 16, cells.zero("untrained"), talk)]
    pairs = [("v", 0), ("v", 2), ("w", 1)]
    got = collect(run.project(rows, (), pairs))["0" * 16]
    tokens, _ = chat.encode(tokenizer, [talk])
    read = np.array([[tokens.shape[1] - 1]])  # this template opens an answer with one token
    stream = cells.decoder.forward(graphdef, params, tokens, read=read).residual[:, 0, 0]
    want = [
        stream[k] @ found.directions[n].values[k] / np.linalg.norm(found.directions[n].values[k]) for n, k in pairs
    ]
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_grids():
    found = bank(4, 3, ("v",))
    found.directions["random_0/v"] = found.directions["v"]._replace(kind="random", beside="v")
    grid = cells.grid(["a", "b"], found, "all", (-1, 0, 1), ["assistant", "readout"])
    assert len(grid) == len(set(grid)) == 2 * (1 + 4 * 2 * 2 + 2)
    assert [c for c in grid if not c.alpha] == [cells.zero("a"), cells.zero("b")]
    assert {c.layer for c in grid if c.vector.startswith("random")} == {1}
    assert {c.layer for c in cells.grid(["a"], found, "0,-1", (1,), ["assistant"]) if c.vector == "v"} == {0, 3}
    for layers, where in (("most", ["assistant"]), ("4", ["assistant"]), ("chosen", ["everywhere"])):
        with pytest.raises(InputError, match="evals.(layers|where)="):
            cells.grid(["a"], found, layers, (1,), where)
    with pytest.raises(InputError, match="evals.batch"):
        device(None, None, None, found, batch=3)


def test_words_of_two_spellings(shared_tokenizer, tiny_tokenizer):
    harness = lambda tokenizer: SimpleNamespace(device=device(None, None, tokenizer, None))
    cfg = SimpleNamespace(true=("True", " True"), false=("False", " False"))
    yes, no = confidence.words(harness(shared_tokenizer("qwen3")), "confidence", cfg)
    assert len(yes) == len(no) == 2 and all(len(ids) == 1 for ids in yes + no)
    yes, no = confidence.words(harness(tiny_tokenizer), "confidence", cfg)
    assert len(yes) == len(no) == 1  # not words there: their first bytes


def test_weights_are_named_by_what_they_are(world):
    params = world[1]
    other = jax.tree.map(lambda a: a, params) | {"embed": params["embed"].at[0, 0].add(1e-6)}
    assert checkpoints.digest(params) == checkpoints.digest(jax.tree.map(lambda a: a + 0, params))
    assert checkpoints.digest(params) != checkpoints.digest(other)


def test_tokens_without_a_row_are_refused(tiny_tokenizer):
    """Of prompts and of the words that are read, before the device gives numbers for them."""
    graphdef, params = tiny_model("qwen3", vocab=300)
    run = device(graphdef, params, tiny_tokenizer, None)
    word = run.tokens(" north")
    assert max(word) >= 300
    for batches, named in (
        (run.speak(rows_of([cells.zero("untrained")], ["Go north."]), (), 2, 0.0), "prompt 'Go north.'"),
        (run.read(rows_of([cells.zero("untrained")], ["1"]), (), [[word], [(5,)]]), "read-out of ' north'"),
    ):
        with pytest.raises(InputError, match=f"{named}: id {max(word)} .* has no row in the model") as error:
            list(batches)
        assert "\n" not in str(error.value)
    assert len(collect(run.speak(rows_of([cells.zero("untrained")], ["1"]), (), 2, 0.0))) == 1


def test_where_an_answer_ends(tiny_tokenizer, monkeypatch):
    """At the ids of the model's files, which are no part of it, and in the final channel at its end."""
    asked = []

    def speak(graphdef, params, tokens, mask, keys, *, stop, **_):
        asked.append(stop)
        return np.resize([290, 300], (len(tokens), 2)), np.ones((len(tokens), 2), bool)

    monkeypatch.setattr(generate, "generate", speak)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.listed_ends = (300,)
    graphdef, params = tiny_model("qwen3", vocab=len(tokenizer))
    rows = rows_of([cells.zero("untrained")], ["Who?"])
    said = collect(device(graphdef, params, tokenizer, None).speak(rows, (), 2, 0.0))
    assert list(said.values()) == [tokenizer.decode([290])] and 300 in asked[0]
    tokenizer = copy.deepcopy(tiny_tokenizer)
    marks = ["<|start|>", "<|channel|>", "<|message|>", "<|return|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": marks, "eos_token": "<|return|>"})
    graphdef, params = tiny_model("qwen3", vocab=len(tokenizer))
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    for template, final in ((pieces.arguments(tokenizer), True), ({}, False)):
        list(device(graphdef, params, tokenizer, None, template=template).speak(rows, (), 2, 0.0))
        assert (end in asked[-1]) == final
