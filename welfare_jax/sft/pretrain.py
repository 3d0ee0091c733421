"""Pretraining of the small decoder that ships with the package, from text that the package generates.

Two streams feed a step: rows of packed short documents, and rows of one maze conversation each, as long as the
episodes of the later reinforcement learning. The mixture changes in phases, from questions to conversations.
"""

import hashlib
import itertools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from optax import contrib
from tqdm import tqdm

from welfare_jax.models import decoder, hf, hf_save
from welfare_jax.models.spec import small
from welfare_jax.text import tiny_tokenizer, tiny_world
from welfare_jax.text.wording import LETTERS, Wording

SHORT, LONG = ("questions", "choices", "stories"), ("goals", "free")


class Stream:
    """Token rows from an endless iterator of documents; `weights` are those of the losses on each token."""

    def __init__(self, tokenizer, documents, told_weight):
        self.documents, self.told_weight = documents, told_weight
        self.fast = tokenizer.backend_tokenizer
        self.marks = tuple(tokenizer.convert_tokens_to_ids(t) for t in ("<|user|>", "<|assistant|>", "<|end|>"))
        self.pad, self.rest = tokenizer.pad_token_id, (np.zeros(0, np.int32), np.zeros(0, np.float32))

    def encoded(self, n):
        texts = [tiny_world.render(d) for d in itertools.islice(self.documents, n)]
        for found in self.fast.encode_batch(texts, add_special_tokens=False):
            ids = np.asarray(found.ids, np.int32)
            yield ids, self.weigh(ids)

    def weigh(self, ids):
        user, assistant, end = self.marks
        if user not in ids:
            return np.ones(len(ids), np.float32)
        opened, closed = np.cumsum(ids == assistant), np.cumsum(ids == end)
        answer = (opened > closed - (ids == end)) & (ids != assistant)
        return np.where(answer, 1.0, self.told_weight).astype(np.float32)

    def packed(self, rows, length):
        """(tokens, weights) [rows, length], documents end to end."""
        parts, have = [self.rest], len(self.rest[0])
        while have < rows * length:
            for pair in self.encoded(64):
                parts.append(pair)
                have += len(pair[0])
        ids, weights = (np.concatenate(x) for x in zip(*parts, strict=True))
        cut = rows * length
        self.rest = ids[cut:], weights[cut:]
        return ids[:cut].reshape(rows, length), weights[:cut].reshape(rows, length)

    def single(self, rows, length):
        """(tokens, weights) [rows, length], one document a row, cut or padded."""
        tokens, weights = np.full((rows, length), self.pad, np.int32), np.zeros((rows, length), np.float32)
        for i, (ids, w) in enumerate(self.encoded(rows)):
            n = min(length, len(ids))
            tokens[i, :n], weights[i, :n] = ids[:n], w[:n]
        return tokens, weights


def loss_sums(model, tokens, weights):
    """Weighted negative log-likelihood of the next token, and the weight: kept apart until all batches are in."""
    hidden, _, _ = decoder.backbone(model, tokens)
    logits = decoder.unembed(model, hidden[:, :-1])
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.sum(nll * weights[:, 1:]), jnp.sum(weights[:, 1:])


def make_step(graphdef, optimizer):
    def loss(params, batches):
        model = decoder.bind(graphdef, params)
        sums = [loss_sums(model, *b) for b in batches]
        parts = jnp.stack([a / b for a, b in sums])
        return sum(a for a, _ in sums) / sum(b for _, b in sums), parts

    def step(params, opt_state, batches):
        (_, parts), grads = jax.value_and_grad(loss, has_aux=True)(params, batches)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, parts

    return jax.jit(step, donate_argnums=(0, 1))


def optimizer(config):
    """Muon on the kernels, Adam on the rest, both on one warm-up and cosine; gradients clipped by global norm.

    Muon reaches the step at which tiles are bound to directions in about half the steps of AdamW here.
    """

    def schedule(peak):
        return optax.warmup_cosine_decay_schedule(0.0, peak, config.warmup, config.steps, 0.05 * peak)

    def kernels(params, yes, no):
        return jax.tree_util.tree_map_with_path(lambda p, _: yes if p[-1].key == "kernel" else no, params)

    stacked = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    muon = contrib.muon(
        schedule(config.muon_lr), consistent_rms=0.2, weight_decay=config.weight_decay,
        weight_decay_mask=lambda params: kernels(params, True, False), adam_b1=0.9, adam_b2=0.95,
        adam_learning_rate=schedule(config.adam_lr),
        muon_weight_dimension_numbers=lambda params: kernels(params, stacked, None),
    )  # fmt: skip
    return optax.chain(optax.clip_by_global_norm(1.0), muon)


class Probe:
    """What the model can do so far, on documents it never sees in training."""

    def __init__(self, graphdef, tokenizer, wording, seed, n=32, length=616):
        self.tokenizer, self.n = tokenizer, n
        self.stream = Stream(tokenizer, iter(()), 0.0)
        rng = np.random.default_rng(seed)
        self.sets = {
            "questions": [tiny_world.surroundings(rng, wording, False) for _ in range(4 * n)],
            "choices": [tiny_world.surroundings(rng, wording, True) for _ in range(4 * n)],
            "stories": [tiny_world.stories(rng, wording) for _ in range(4 * n)],
            "goals": [tiny_world.conversation(rng, wording, True, 15) for _ in range(n)],
            "free": [tiny_world.conversation(rng, wording, False, 15) for _ in range(n)],
        }
        self.letters = np.array([tokenizer.convert_tokens_to_ids(x) for x in LETTERS])
        self.length = {"questions": 176, "stories": 128, "choices": 128}
        self.long = length

        def predict(params, tokens):
            logits = decoder.forward(graphdef, params, tokens[:, :-1]).logits
            return logits.argmax(-1), jax.nn.log_softmax(logits[..., self.letters])

        self.predict = jax.jit(predict)

    def __call__(self, params) -> dict:
        out = {}
        for name, documents in self.sets.items():
            self.stream.documents = iter(documents)
            tokens, weights = self.stream.single(len(documents), self.length.get(name, self.long))
            best, logp = (np.asarray(a) for a in self.predict(params, tokens))
            answer = weights[:, 1:] > 0
            if name in ("questions", "stories"):
                out[f"{name}_accuracy"] = float((best == tokens[:, 1:])[answer].mean())
            else:
                out.update(self.conversation(name, documents, tokens, answer, logp))
        return out

    def conversation(self, name, documents, tokens, answer, logp):
        entropy, follow, chance = [], [], []
        for i, d in enumerate(documents):
            at = np.flatnonzero(answer[i] & np.isin(tokens[i, 1:], self.letters))
            facts = d.facts
            if name == "choices":
                asked = [(facts["neighbours"], r, a) for r, a in zip(facts["reach"], facts["avoid"], strict=True)]
            else:
                asked = [(near, facts["reach"], facts["avoid"]) for near in facts["neighbours"]]
            for k, (near, reach, avoid) in zip(at, asked, strict=False):
                entropy.append(-(np.exp(logp[i, k]) * logp[i, k]).sum())
                options = tiny_world._options(near, reach, avoid)
                if name != "free" and len(options) < 4:
                    follow.append(np.exp(logp[i, k])[options].sum())
                    chance.append(len(options) / 4)
        out = {f"{name}_entropy": float(np.mean(entropy))}
        if follow:
            out |= {f"{name}_followed": float(np.mean(follow)), f"{name}_chance": float(np.mean(chance))}
        return out


def folder_hash(folder) -> str:
    """SHA-256 over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def streams(config, phase, tokenizer, wording, number):
    """(short, long) streams of one phase; long is None where the phase has no conversations."""
    mixture = tiny_world.Mixture(**{k: phase.get(k, 0.0) for k in tiny_world.KINDS})
    out = []
    for kinds, offset in ((SHORT, 1), (LONG, 2)):
        wanted = any(getattr(mixture, k) for k in kinds)
        seed = config.seed + 10 * number + offset
        documents = tiny_world.documents(seed, mixture, wording, kinds) if wanted else None
        out.append(Stream(tokenizer, documents, config.told_weight) if wanted else None)
    return out


def run(config, workdir) -> dict:
    """Make the tokenizer, train the decoder, write `workdir/model` and its log. Returns the summary."""
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    begin, wording, folder = time.time(), Wording(), workdir / "model"
    sample = itertools.islice(tiny_world.documents(config.seed, tiny_world.Mixture(), wording), 3000)
    texts = [tiny_world.render(d) for d in sample]
    tiny_tokenizer.save(tiny_tokenizer.train(texts, phrases=tiny_tokenizer.set_phrases(wording)), folder)
    tokenizer = hf.load_tokenizer(folder)
    spec = small(len(tokenizer), **config.shape)
    graphdef, params = decoder.init(spec, jax.random.key(config.seed))
    tx = optimizer(config)
    opt_state, step_fn = tx.init(params), make_step(graphdef, tx)
    phases = [(p.until, streams(config, p, tokenizer, wording, i)) for i, p in enumerate(config.phases)]
    probe = Probe(graphdef, tokenizer, wording, config.seed + 3, length=config.long_length)
    bar = tqdm(range(config.steps), desc="pretraining", unit="step")
    with open(workdir / "metrics.jsonl", "w") as log:
        for step in bar:
            short, long = next(pair for until, pair in phases if step < until or until == config.steps)
            batches = [short.packed(config.short_rows, config.short_length)]
            if long is not None:
                batches.append(long.single(config.long_rows, config.long_length))
            params, opt_state, parts = step_fn(params, opt_state, batches)
            if (step + 1) % config.probe_every == 0 or step + 1 == config.steps:
                found = {"step": step + 1, "loss": [round(float(x), 4) for x in parts], **probe(params)}
                found = {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}
                found["seconds"] = round(time.time() - begin, 1)
                log.write(json.dumps(found) + "\n")
                log.flush()
                bar.write(json.dumps(found))
    hf_save.save_hf(hf.LM(graphdef, params, spec, tokenizer, str(workdir / "none")), folder, "bfloat16")
    size = sum(p.stat().st_size for p in folder.iterdir())
    count = sum(x.size for x in traverse_util.flatten_dict(params).values())
    summary = {
        "parameters": count,
        "bytes": size,
        "sha256": folder_hash(folder),
        "seconds": time.time() - begin,
        **found,
    }
    (workdir / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary
