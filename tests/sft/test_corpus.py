"""The data of pretraining: every token in its place and weight, mixtures as weighted, the same rows after a stop."""

import collections
import copy
import dataclasses
import itertools
import json
import sys
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from welfare_jax import config as settings
from welfare_jax.errors import InputError
from welfare_jax.models.spec import small
from welfare_jax.sft import corpus
from welfare_jax.text import arithmetic, tiny_tokenizer, tiny_world
from welfare_jax.text.wording import Wording

TOLD = 0.25
LEVEL = arithmetic.Level()


def documents(kinds=tiny_world.KINDS, n=40, seed=0):
    return list(
        itertools.islice(
            tiny_world.documents(seed, tiny_world.Mixture(*[1] * len(tiny_world.KINDS)), Wording(), kinds), n
        )
    )


def by_hand(tokenizer, document):
    """(ids, weights) of a document, message by message: answers and plain text count fully, the rest is told."""
    ids = [tokenizer.convert_tokens_to_ids("<|bos|>")]
    if not document.messages:
        ids += tokenizer.encode(document.text, add_special_tokens=False) + [tokenizer.eos_token_id]
        return ids, [1.0] * len(ids)
    weights = [TOLD]
    for m in document.messages:
        body = tokenizer.encode(m["content"], add_special_tokens=False)
        answer = m["role"] == "assistant"
        ids += [tokenizer.convert_tokens_to_ids(f"<|{m['role']}|>"), *body]
        weights += [TOLD, *[1.0 if answer else TOLD] * len(body)]
        if answer:  # the end of an answer is the player's own
            ids, weights = [*ids, tokenizer.eos_token_id], [*weights, 1.0]
    return ids, weights


def config(**changes):
    cfg = settings.pretrain()
    cfg.update(steps=6, rows=4, length=64, told_weight=TOLD)
    cfg.update(changes)
    return corpus.Mixture.of(cfg)


def world(**weights):
    return ConfigDict({k: {"data": f"world/{k}", "weight": w, "column": "text"} for k, w in weights.items()})


@pytest.mark.parametrize("kind", tiny_world.KINDS)
def test_weights_of_every_kind(kind, tiny_tokenizer):
    docs = documents((kind,), 12)
    tokens, weights = corpus.single(docs, tiny_tokenizer, 300, TOLD)
    for row, d in enumerate(docs):
        ids, want = by_hand(tiny_tokenizer, d)
        n = min(300, len(ids))
        assert tokens[row, :n].tolist() == ids[:n] and weights[row, :n].tolist() == want[:n]
        assert (tokens[row, n:] == tiny_tokenizer.pad_token_id).all() and not weights[row, n:].any()


def test_packing_keeps_every_document_whole(tiny_tokenizer):
    """Rows hold whole documents and then padding; an epoch has each of them, and only then does one come again."""
    docs = documents(n=60)
    rows = corpus.pack([docs], [1.0], tiny_tokenizer, seed=0, rows=3, length=900, told_weight=TOLD)
    want = [tuple(zip(*by_hand(tiny_tokenizer, d))) for d in docs]
    got, bos = [], tiny_tokenizer.bos_token_id
    while len(got) < 90:
        batch = next(rows)
        assert batch["tokens"].shape == batch["weights"].shape == (3, 900) and batch["tokens"].dtype == np.int32
        for ids, weights in zip(batch["tokens"], batch["weights"]):
            pairs = list(zip(ids.tolist(), weights.tolist()))[: int(np.flatnonzero(weights)[-1]) + 1]
            starts = [*(i for i, (t, _) in enumerate(pairs) if t == bos), len(pairs)]
            got += [tuple(pairs[a:b]) for a, b in itertools.pairwise(starts)]
    counts = collections.Counter(got)
    assert set(counts) == set(want) and max(counts.values()) <= 3  # first-fit may mix the ends of two epochs


def test_long_documents_are_cut(tiny_tokenizer):
    whole = corpus.encode(tiny_tokenizer, documents(("free",), 1)[0], TOLD)
    parts = corpus._Cut(50).flat_map(whole)
    assert len(parts) > 1 and all(len(p["tokens"]) == 50 for p in parts[:-1])
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])


def test_mixture_follows_its_weights(tiny_tokenizer):
    words = ("north", "south")
    parts = [[tiny_world.Document("", (), word)] * 5 for word in words]
    rows = corpus.pack(parts, [3.0, 1.0], tiny_tokenizer, seed=0, rows=4, length=100)
    tokens = np.concatenate([next(rows)["tokens"].ravel() for _ in range(6)])
    a, b = ((tokens == tiny_tokenizer.encode(w, add_special_tokens=False)[0]).sum() for w in words)
    assert b > 50 and a / b == pytest.approx(3, rel=0.1)


def test_phases_and_resuming(tiny_tokenizer):
    """The rows from any step on are those of a run that never stopped, whatever phase it stopped in."""
    phases = [{"until": 2, "questions": 1.0}, {"until": 6, "stories": 0.5, "goals": 0.5}]
    cfg = config(sources=world(questions=1.0, stories=1.0, goals=1.0), phases=phases)
    whole = corpus.Corpus(cfg, tiny_tokenizer)
    want = [whole.batch(i) for i in range(6)]
    for stop in (1, 2, 4):
        before = corpus.Corpus(cfg, tiny_tokenizer)
        for i in range(stop):
            before.batch(i)
        after = corpus.Corpus(cfg, tiny_tokenizer)
        after.set_state(json.loads(json.dumps(before.get_state())))
        for i in range(stop, 6):
            np.testing.assert_array_equal(after.batch(i)["tokens"], want[i]["tokens"])
    other = corpus.Corpus(dataclasses.replace(cfg, seed=1), tiny_tokenizer)
    assert (other.batch(0)["tokens"] != want[0]["tokens"]).any()


def test_arithmetic_held_out():
    """Documents to train on and held-out ones share no question, and both are right."""
    for style in arithmetic.FORMATS:
        parts = [corpus.source(f"arithmetic/{style}", 0, LEVEL, held_out=h) for h in (False, True)]
        texts = [[part[i].text.split("\n\n") for i in range(60)] for part in parts]
        assert not {q for q, _ in texts[0]} & {q for q, _ in texts[1]}
        assert all(arithmetic.is_held_out(q) for q, _ in texts[1])
        for part in parts:
            for i in range(60):
                solution = part[i].text.split("\n\n")[1]
                assert arithmetic.classify(solution) == style and arithmetic.correct(
                    part[i].facts["problem"], solution
                )


def test_files(tmp_path, tiny_tokenizer):
    lines = [{"text": f"Row {i}: é"} for i in range(19)] + [{"messages": [{"role": "user", "content": "Hi"}]}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(r) for r in lines), encoding="utf-8")
    (tmp_path / "b.txt").write_text("One\ntwo.\n\n\nThree.\n\nFour.", encoding="utf-8")
    train, held = (corpus.source(str(tmp_path / "a.jsonl"), 0, LEVEL, held_out=h) for h in (False, True))
    assert (len(train), len(held)) == (18, 2)
    assert [train[i].text for i in range(18)] == [r["text"] for r in lines[:18]] and held[0].text == "Row 18: é"
    assert held[1].messages == ({"role": "user", "content": "Hi"},)
    train, held = (corpus.source(str(tmp_path / "b.txt"), 0, LEVEL, held_out=h) for h in (False, True))
    assert [train[0].text, train[1].text, held[0].text] == ["One\ntwo.", "Three.", "Four."]
    sources = ConfigDict({"b": {"data": str(tmp_path / "b.txt"), "weight": 1.0, "column": "text"}})
    rows = corpus.Corpus(config(sources=sources), tiny_tokenizer)
    assert rows.batch(0)["tokens"].shape == (4, 64)  # two documents go round for ever


def test_hub_datasets(monkeypatch):
    with pytest.raises(InputError, match="pip install datasets"):
        corpus.source("hub/someone/texts", 0, LEVEL)
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return [{"story": f"Story {i}."} for i in range(40)]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert corpus.source("hub/someone/texts", 0, LEVEL, "story")[3].text == "Story 3."
    assert asked == [("someone/texts", "train")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("world/poems", None, "world/questions"),
        ("nowhere.jsonl", None, "nowhere.jsonl"),
        ("bad.jsonl", '{"text": "a"}\n{"tex', "line 2: not JSON"),
        ("bad.jsonl", '{"text": "a"}\n{"body": "b"}', "line 2: needs a text under 'text'; it has body"),
        ("bad.jsonl", '{"text": "a"}\n[1]', "line 2: needs a text under 'text'; it is a list"),
        ("one.jsonl", '{"text": "a"}', "holds 1 documents"),
        ("bad.txt", b"\xff\xfe\xff", "UTF-8"),
    ],
)
def test_what_cannot_be_read_is_named(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        name = str(tmp_path / name)
    with pytest.raises(InputError, match=said) as error:
        [corpus.source(name, 0, LEVEL, held_out=h)[0] for h in (False, True)]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phases": [{"until": 6, "wordz": 1.0}]}, "'wordz' is not in sources"),
        ({"phases": [{"until": 3, "words": 1.0}]}, "ends at 3, before steps=6"),
        ({"phases": [{"until": 3, "words": 1.0}, {"until": 3, "words": 1.0}]}, "until=3"),
        ({"phases": [{"until": 6, "words": 0.0}]}, "not all zero"),
        ({"phases": [{"until": 6, "words": 1.0, "script": -1.0}]}, "zero or more"),
    ],
)
def test_bad_mixtures_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        config(**changes)


def test_tokenizers(tmp_path):
    """Both kinds give text back exactly, arithmetic in whole numbers; what is already there is used again."""
    texts = ["Tom has 12 apples. 12 + 7 = 19.", "def solve():\n  a = 3\n  return a", "naïve 🗂 \t\n\n x"]
    for kind, size in (("words", 640), ("bpe", 400)):
        cfg = config(tokenizer={"kind": kind, "vocab_size": size, "documents": 120})
        tokenizer = corpus.make_tokenizer(cfg, tmp_path / kind)
        for text in texts:
            assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
        assert len(tokenizer) <= size and tokenizer.bos_token_id == tiny_tokenizer.SPECIAL.index("<|bos|>")
        written = (tmp_path / kind / "tokenizer.json").read_bytes()
        assert corpus.make_tokenizer(cfg, tmp_path / kind).get_vocab() == tokenizer.get_vocab()
        assert (tmp_path / kind / "tokenizer.json").read_bytes() == written
        pieces = [tokenizer.decode([i]) for i in tokenizer.encode(" 12 + 7", add_special_tokens=False)]
        assert pieces == ([" 12", " +", " 7"] if kind == "words" else [" ", "1", "2", " +", " ", "7"])
    for kind, size, said in (("wrods", 640, "tokenizer.kind"), ("words", 10, "tokenizer.vocab_size=10")):
        with pytest.raises(InputError, match=said):
            corpus.make_tokenizer(config(tokenizer={"kind": kind, "vocab_size": size}), tmp_path / "none")


def test_documents_that_the_model_has_no_rows_for(tmp_path, tiny_tokenizer):
    """Named by their source, in training rows as in held-out ones."""
    (tmp_path / "a.txt").write_text("One north.\n\nTwo north.\n\nThree north.")
    sources = ConfigDict({"a": {"data": str(tmp_path / "a.txt"), "weight": 1.0, "column": "text"}})
    spec = small(len(tiny_tokenizer))
    corpus.Corpus(config(sources=sources), tiny_tokenizer, spec).batch(0)
    rows = corpus.Corpus(config(sources=sources), tiny_tokenizer, dataclasses.replace(spec, vocab=300))
    for read in (lambda: rows.batch(0), lambda: rows.held_out("a")):
        with pytest.raises(InputError, match=r"source .*a\.txt: id .* has no row in the model"):
            read()


def test_padding_has_a_row(tiny_tokenizer):
    """A pad token that was added behind the model's rows would make the loss of every row NaN."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<more>"})
    spec = small(len(tiny_tokenizer))
    assert tokenizer.pad_token_id == spec.vocab
    rows = corpus.Corpus(config(sources=world(stories=1.0)), tokenizer, spec)
    for found in (rows.batch(0), dict(zip(("tokens", "weights"), rows.held_out("stories")))):
        blank = found["tokens"][found["weights"] == 0]
        assert blank.size and found["tokens"].max() < spec.vocab and (blank == 0).any()
