"""Steering at chosen tokens of a conversation: against hooks on transformers, one program a shape, resumed rows."""

import jax
import numpy as np
import pytest
import torch
from helpers import _hooked, hf_model, save
from test_cells import bank, collect, device

from welfare_jax.errors import InputError
from welfare_jax.evals import cells, exposure
from welfare_jax.models import chat, hf

ASKED = ("Did it go well?", "Did it go well, or did the wind push you?", "A number?")
SIDES = (((5, 9), (6,)), ((7,), (8, 11)), ((12,), (13,), (14, 15)))


def talks(first="Go north. The wall is near.", said="me and the wind", more=()):
    begun = (("user", first), ("assistant", said), ("user", "And now?"), ("assistant", "a goal"), *more)
    return tuple((*begun, ("user", question)) for question in ASKED)


LONG = talks("What lies north of the long walk?", "it is a tile", (("user", "Who?"), ("assistant", "me")))


@pytest.fixture(scope="module")
def world(tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    model = hf_model("qwen3", vocab_size=len(tiny_tokenizer))
    lm = hf.load(save(model, tmp_path_factory.mktemp("model"), tiny_tokenizer_dir))
    return model, lm, bank(lm.spec.layers, lm.spec.width, scale=0.5)


def rows_of(grid, prompts):
    return [exposure.Row(f"{i:08x}{j:08x}", c, t) for i, c in enumerate(grid) for j, t in enumerate(prompts)]


def run(world, rows, done=(), batch=8, buckets=1, sides=SIDES):
    _, lm, found = world
    on = device(lm.graphdef, lm.params, lm.tokenizer, found, batch=batch, buckets=buckets)
    return collect(on.expose(rows, done, found, sides))


def tokens_of(tokenizer, talk):
    """(ids, where the first answer stands), from the template's text alone."""
    said = [{"role": role, "content": content} for role, content in talk]
    ids = tokenizer.encode(chat.render(tokenizer, said), add_special_tokens=False)
    on = np.flatnonzero(chat.assistant_tokens(tokenizer, [said], opening=False)[0])
    stop = next((i for i in on if i + 1 not in on), None)
    assert tokenizer.decode(ids[on[0] : stop + 1]).strip() == talk[1][1]
    return ids, on[0], stop + 1


def in_torch(model, ids, where, layer, push):
    """(log-probabilities [T, V], stream [L, T, D]) with `push` added to the output of `layer` at tokens `where`."""
    stream, push = [], torch.as_tensor(where[:, None] * push[None])

    def edit(at, x):
        x = x + push.to(x.dtype) if at == layer else x
        stream.append(x[0].numpy())
        return x

    with torch.no_grad(), _hooked(model, [("resid_post", edit)]):
        return torch.log_softmax(model(torch.as_tensor([ids])).logits[0].double(), -1).numpy(), np.stack(stream)


GRID = [cells.Cell("untrained", v, layer, alpha, where) for v, layer, alpha, where in (
    ("v", 0, 0.0, "none"), ("v", 0, 3.0, "early"), ("w", 2, -2.0, "early"), ("v", 1, 2.0, "readout"),
    ("w", 0, -3.0, "readout"), ("v", 1, 2.0, "throughout"), ("v", 1, 4.0, "3"), ("w", 0, 4.0, "9"),
    ("v", 0, 4.0, "24"), ("w", 1, 3.0, "31"),
)]  # fmt: skip


def test_every_exposure_agrees_with_hooks_on_transformers(world):
    """Layers, directions, signs, two lengths, three questions: read-outs to 1e-4, and what stands beside them."""
    model, lm, found = world
    rows = rows_of(GRID, (talks(), LONG))
    ours, seen, begun = run(world, rows), set(), set()
    for row in rows:
        c, got = row.cell, ours[row.key]
        push = c.alpha * found.directions[c.vector].values[c.layer]
        units = found.directions[c.vector].values
        units = units / np.linalg.norm(units, axis=-1, keepdims=True)
        for s, talk in enumerate(row.talks):
            ids, start, stop = tokens_of(lm.tokenizer, talk)
            at = np.arange(len(ids))
            where = {
                "none": at < 0, "early": (at >= start) & (at < stop), "readout": at == len(ids) - 1,
                "throughout": at >= start, **{digits: at == int(digits) for digits in ("3", "9", "24", "31")},
            }[c.where]  # fmt: skip
            logp, stream = in_torch(model, ids, where, c.layer, push)
            plain, _ = in_torch(model, ids, at < 0, c.layer, push)
            want = [np.logaddexp.reduce(logp[-1, list(side)]) for side in SIDES[s]]
            np.testing.assert_allclose(got["logp"][s], want, atol=1e-4)
            assert got["top"][s] == logp[-1].argmax()
            seen.add(round(want[0], 3))
            if s == 0:
                site = len(ids) - 1 if c.where == "readout" else stop - 1
                kl = (np.exp(logp[site]) * (logp[site] - plain[site])).sum()
                assert got["kl"] == pytest.approx(kl, abs=1e-4)
                sites = [len(ids) - 1] if c.where == "readout" else [stop - 1, stop, len(ids) - 1]
                along = np.einsum("lpd,ld->pl", stream[:, sites], units)
                np.testing.assert_allclose(got["along"], along, atol=5e-4)
        begun.add((c.where.isdigit(), exposure.begins(c.where, (start, stop))))
    assert len(seen) > 50  # of 60: exposures, directions and questions differ
    assert {(True, "anywhere"), (True, "from the answer on"), (False, "last token")} <= begun


def test_a_grid_compiles_each_program_once(world):
    """Two layers, doses, directions and all exposures, many positions: nothing is compiled beside the first grid's."""
    _, lm, _ = world
    grid = [cells.Cell("untrained", v, layer, alpha, where) for v in ("v", "w") for layer in range(lm.spec.layers)
            for alpha in (-2.0, 1.0) for where in ("early", "readout", "throughout", "2", "11")]  # fmt: skip
    counted = (exposure.unsteered, exposure.through, exposure.at_last)
    run(world, rows_of(GRID, (talks(), LONG)))
    before = [f._cache_size() for f in counted]
    found = run(world, rows_of(grid, (talks(), LONG)))
    assert [f._cache_size() for f in counted] == before and len(found) == 2 * len(grid)


def test_what_is_done_is_not_read_again_and_changes_nothing(world):
    rows = rows_of(GRID, (talks(), LONG))
    whole = run(world, rows, buckets=2)
    part = run(world, rows, done={row.key for row in rows[::2]}, buckets=2)
    assert part.keys() == {row.key for row in rows[1::2]}
    for key, value in part.items():
        np.testing.assert_allclose(value["logp"][0], whole[key]["logp"][0], atol=1e-5)


def test_a_single_question_is_split_before_its_last_token(world):
    """What the panel of controls reads: the same numbers as beside other questions."""
    rows = rows_of(GRID, (talks(), LONG))
    alone = [row._replace(talks=row.talks[:1]) for row in rows]
    every, one = run(world, rows), run(world, alone, sides=SIDES[:1])
    for row in rows:
        np.testing.assert_allclose(one[row.key]["logp"][0], every[row.key]["logp"][0], atol=1e-4)
        assert one[row.key]["kl"] == pytest.approx(every[row.key]["kl"], abs=1e-4)


def test_no_attention_no_trace(world):
    """Where no token reads another, an early dose leaves the answer bit for bit as it was, and a late one does not."""
    _, lm, found = world
    blocks = lm.params["blocks"]
    blocks = blocks | {"attn": jax.tree.map(lambda a: a, blocks["attn"])}
    blocks["attn"]["o"] = jax.tree.map(lambda a: 0 * a, blocks["attn"]["o"])
    deaf = device(lm.graphdef, lm.params | {"blocks": blocks}, lm.tokenizer, found)
    got = collect(deaf.expose(rows_of(GRID, (talks(),)), (), found, SIDES))
    none, *rest = (got[row.key]["logp"] for row in rows_of(GRID, (talks(),)))
    same = [np.allclose(np.concatenate(none), np.concatenate(logp), atol=1e-6) for logp in rest]
    assert same == [c.where not in ("readout", "throughout") for c in GRID[1:]]


def test_conversations_without_a_place_to_steer_are_refused(tiny_tokenizer):
    encode = lambda *said: cells.encode(tiny_tokenizer, [{"role": r, "content": c} for r, c in said], {})
    with pytest.raises(InputError, match="without an answer"):
        exposure.lay([encode(("user", "Who?"))])
    with pytest.raises(InputError, match="runs into the questions"):
        exposure.lay([encode(("user", "Who?"), ("assistant", said), ("user", "So?")) for said in ("me", "a goal")])
