"""Pretraining of a small decoder from scratch, on a mixture of documents (`sft.corpus`), from any step on."""

import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from welfare_jax import mesh as mesh_lib
from welfare_jax import runtime, textfiles
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf, hf_save, stops
from welfare_jax.models.spec import small
from welfare_jax.settings import RENTING, typed
from welfare_jax.sft import corpus, probe
from welfare_jax.train import checkpoints, state, step, training
from welfare_jax.train.settings import Steps


def loss_sums(model, tokens, weights, remat=False):
    """Weighted negative log-likelihood of the next token, and the weight: kept apart until all batches are in."""
    hidden, _, _ = decoder.backbone(model, tokens, remat=remat)
    logits = decoder.unembed(model, hidden[:, :-1])
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.sum(nll * weights[:, 1:]), jnp.sum(weights[:, 1:])


def schedule(config, peak: float):
    """Linear warm-up, then a cosine from the peak to 5 % of it."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, config.warmup, config.steps, 0.05 * peak)


def optimizer(config) -> optax.GradientTransformation:
    """For flat parameters: AdamW, or Muon on the kernels and Adam on the rest, on one schedule; gradients clipped.

    Muon learns what lies where in the generated maze world in about half the steps of AdamW. Weight decay is for
    kernels only.
    """
    kernels = lambda params, yes, no: {name: yes if name.endswith("kernel") else no for name in params}
    decayed = {"weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        mask = lambda params: kernels(params, True, False)
        rule = optax.adamw(schedule(config, config.lr), b1=0.9, b2=0.95, mask=mask, **decayed)
    elif config.optimizer == "muon":
        stacked = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        rule = contrib.muon(
            schedule(config, config.muon_lr), consistent_rms=0.2, **decayed,
            weight_decay_mask=lambda params: kernels(params, True, False), adam_b1=0.9, adam_b2=0.95,
            adam_learning_rate=schedule(config, config.lr),
            muon_weight_dimension_numbers=lambda params: kernels(params, stacked, None),
        )  # fmt: skip
    else:
        raise InputError(f"optimizer={config.optimizer!r}: choose muon or adamw")
    return optax.chain(optax.clip_by_global_norm(1.0), rule)


def make_update(graphdef, tx, config):
    """`update(state, batch) -> (state, metrics)`; batch {"tokens", "weights"} [B, T]."""

    def loss(params, part, _):
        model = decoder.bind(graphdef, state.join(params, {}, jnp.dtype(config.dtype)))
        numerator, denominator = loss_sums(model, part["tokens"], part["weights"], config.train.remat)
        return numerator, (denominator, {})

    def update(now: state.State, batch):
        (numerator, (weight, _)), grads = step.accumulate(loss, now.trainable, batch, config.train.micro_batch)
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-6), grads)
        updates, opt_state = tx.update(grads, now.opt_state, now.trainable)
        now = state.State(now.step + 1, optax.apply_updates(now.trainable, updates), opt_state)
        tokens = jnp.sum(batch["weights"] > 0)
        return now, {
            "loss": (numerator, weight), "grad_norm": (optax.tree.norm(grads), 1.0), "tokens": (tokens, 1.0),
            "packed": (tokens, batch["tokens"].size),
        }  # fmt: skip

    return update


def folder_hash(folder) -> str:
    """SHA-256 over the names and contents of a folder's files."""
    digest, folder = hashlib.sha256(), pathlib.Path(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Exam:
    """What a run is asked every `probe_every` steps: held-out loss of every source, and the maze world's probe."""

    def __init__(self, graphdef, config, tokenizer, rows: corpus.Corpus):
        dtype = jnp.dtype(config.dtype)
        self.sets = {name: rows.held_out(name) for name in config.sources}
        self.probe = probe.Probe(graphdef, tokenizer, config.seed + 3) if rows.config.world else lambda params: {}
        self.join = lambda params: state.join(params, {}, dtype)
        self.sums = jax.jit(lambda params, *a: loss_sums(decoder.bind(graphdef, self.join(params)), *a))

    def __call__(self, params) -> dict:
        out = {}
        for name, (tokens, weights) in self.sets.items():
            total, weight = self.sums(params, tokens, weights)
            out[f"nll_{name}"] = float(total / weight)
        return out | self.probe(self.join(params))


def check(config):
    for name in ("steps", "rows", "probe_every"):
        if config[name] < 1:
            raise InputError(f"{name}={config[name]}: must be at least 1")
    if config.length < 2:
        raise InputError(f"length={config.length}: must be at least 2 tokens")
    if config.dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype={config.dtype!r}: use 'float32' or 'bfloat16'")
    if config.warmup >= config.steps:
        raise InputError(f"warmup={config.warmup}: must be less than steps={config.steps}")
    part = min(config.train.micro_batch, config.rows)
    if part < 1 or config.rows % part:
        raise InputError(f"train.micro_batch={config.train.micro_batch}: must divide rows={config.rows}")


def run(config, workdir) -> dict:
    """Make the tokenizer, train the decoder, write `workdir/model` and the log. Returns the summary.

    The same settings in the same folder continue from the newest checkpoint, with the same metrics.
    """
    check(config)
    tx = optimizer(config)
    workdir, folder, begin = pathlib.Path(workdir), pathlib.Path(workdir) / "model", time.perf_counter()
    mixture = corpus.Mixture.of(config)
    mesh = mesh_lib.make(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    if config.start:
        lm = hf.load(config.start, "float32")
        tokenizer, spec, graphdef, params = lm.tokenizer, lm.spec, lm.graphdef, lm.params
    else:
        tokenizer = corpus.make_tokenizer(mixture, folder)
        spec = small(stops.vocabulary_size(tokenizer), **config.shape)
        graphdef, params = decoder.init(spec, jax.random.key(config.seed))
    rows = corpus.Corpus(mixture, tokenizer, spec)
    params, _ = state.split(params, ".*")
    now = state.State(jnp.int32(0), params, tx.init(params))
    places = state.shardings(mesh, now)
    update = jax.jit(
        make_update(graphdef, tx, config), donate_argnums=0, out_shardings=(places, mesh_lib.replicated(mesh))
    )
    rate, exam = schedule(config, config.lr), Exam(graphdef, config, tokenizer, rows)
    cfg = typed(Steps, config, "train", steps=config.steps)
    vocabulary = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]
    settings = checkpoints.bound(config.to_dict(), **content(config, params), tokenizer=vocabulary)

    def advance(i, now, _):
        now, metrics = update(now, state.spread(rows.batch(i), mesh))
        return now, step.values(metrics) | {"lr": float(rate(i))}

    def measure(i, now, row):
        due = i + 1 == config.steps or (i + 1) % config.probe_every == 0
        return {"tokens_per_s": row["tokens"] / row["seconds"]} | (exam(now.trainable) if due else {})

    now = jax.device_put(now, places)
    now = training.train(workdir, now, settings, cfg, advance, measure=measure, data=rows, label="pretraining")
    params = state.join(jax.device_get(now.trainable), {})
    hf_save.save_hf(hf.LM(graphdef, params, spec, tokenizer, str(workdir / "none")), folder, config.saved)
    summary = summarise(config, workdir, now.trainable, time.perf_counter() - begin)
    print(f"model: {folder}  sha256 {summary['sha256'][:16]}")
    return summary


def content(config, params=None) -> dict:
    """Digests of what the settings name by a path: files of text and the model that it starts from.

    params: those of that model, where it is loaded already.
    """
    files = {name: pathlib.Path(s.data).expanduser() for name, s in config.sources.items()}
    out = {f"source {name}": checkpoints.file_digest(path) for name, path in files.items() if path.is_file()}
    if config.start:
        out["weights"] = checkpoints.digest(params or hf.load(config.start, "float32").params)
    return out


def finished(config, folder) -> pathlib.Path:
    """The model folder of a pretraining, which is run only where it is not finished with the same settings yet.

    Raises `InputError` where what it read or wrote is no longer the same by content.
    """
    folder = pathlib.Path(folder)
    if not (folder / "summary.json").is_file():
        run(config, folder)
        return folder / "model"
    summary, made = (textfiles.json_object(folder / name) for name in ("summary.json", "config.json"))
    was = made.pop(checkpoints.CONTENT, None)
    plain = lambda settings: {k: v for k, v in settings.items() if k not in RENTING}
    if plain(made) != plain(json.loads(json.dumps(config.to_dict()))):
        run(config, folder)
        return folder / "model"
    if was is None:
        checkpoints.say(f"{folder}: does not name what it read by content: taken to be what is there now")
    elif changed := sorted(
        name for name, now in content(config).items()
        if was.get(name) != now and not checkpoints.outdated(was.get(name, checkpoints.MIXED), now)
    ):  # fmt: skip
        raise InputError(
            f"{folder}: was pretrained with another {changed[0]} than is there now; put that back, or delete {folder}"
        )
    if summary.get("sha256") != folder_hash(folder / "model"):
        raise InputError(f"{folder / 'model'}: is not what its pretraining wrote; put that back, or delete {folder}")
    return folder / "model"


def summarise(config, workdir, params, seconds: float) -> dict:
    """The end of the log, and what was written."""
    rows, folder = checkpoints.read_metrics(workdir / "metrics.jsonl"), workdir / "model"
    summary = {
        "parameters": int(sum(np.size(x) for x in params.values())),
        "steps": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "bytes": sum(p.stat().st_size for p in folder.iterdir()),
        "sha256": folder_hash(folder),
        "device": jax.devices()[0].device_kind,
        **{k: v for k, v in rows[-1].items() if k not in ("step", "seconds", "tokens", "lr")},
        "seconds": {"training": round(sum(row["seconds"] for row in rows), 1), "last_call": round(seconds, 1)},
    }
    runtime.write_json(workdir / "summary.json", summary)
    return summary
