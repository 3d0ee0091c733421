"""The analysis stage of a run: walks, vectors of the trained and the untrained model, lens, steered text, episodes."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from welfare_jax import mesh as mesh_lib
from welfare_jax.envs import maze
from welfare_jax.envs import walks as walks_lib
from welfare_jax.interp import extract, geometry, lens, vectors
from welfare_jax.models import decoder, generate, interventions
from welfare_jax.rl import baselines, record

TARGETS = (geometry.MOLD, geometry.GOLD)


def walk_data(pieces, params: maze.Params, mesh, per_length: int, held_out: float, batch: int, seed: int):
    """(extract.Split, facts) of fresh walks; `held_out` of every class and length stays out of the means."""
    walks = walks_lib.generate(params, per_length, seed)
    samples = extract.of_walks(pieces, walks)
    held = np.arange(len(walks.length)) % per_length >= round(per_length * (1 - held_out))
    rows = mesh.shape["data"] * mesh.shape["fsdp"]

    def place(a):
        spec = P(None, *mesh_lib.ROWS) if a.shape[1] % rows == 0 else P()
        return jax.device_put(a, NamedSharding(mesh, spec))

    data = extract.split(samples, held, batch, place)
    counts = np.bincount(walks.final[~held], minlength=3)
    facts = {
        "counts": {name: int(counts[c]) for c, name in geometry.NAMES.items()},
        "directions": walks_lib.last_moves(walks),
        "data": vectors.data_hash(samples.tokens, samples.mask),
    }
    return data, facts


def make_live(graphdef, data, join, axes=None):
    """The live curve (`extract.live`) as `curve(trainable, frozen) -> dict of lists`, one compiled program."""

    @jax.jit
    def program(trainable, frozen, data, axes):
        return extract.live(decoder.bind(graphdef, join(trainable, frozen)), data, axes)

    def curve(trainable, frozen):
        return {k: np.asarray(v).round(6).tolist() for k, v in program(trainable, frozen, data, axes).items()}

    return curve


def make_geometry(graphdef, join):
    """One compiled program: everything about one model that is a function of its class means and held-out scores."""

    @jax.jit
    def program(trainable, frozen, data):
        model = decoder.bind(graphdef, join(trainable, frozen))
        found = extract.moments(model, data.fit)
        sums, counts = found.sums, found.counts
        v = {c: {b: geometry.difference_in_means(sums, counts, c, b) for b in geometry.BASELINES} for c in TARGETS}
        proj, cos, labels = extract.scores(model, data.held, jnp.stack([v[c]["rest"] for c in TARGETS]))
        lens_layer = 5 * model.spec.layers // 6
        out = {
            "cos": geometry.gold_mold_cosines(sums, counts),
            "centred": geometry.centred_cosines(sums, counts),
            "norms": {geometry.NAMES[c]: jnp.linalg.norm(v[c]["rest"], axis=-1) for c in TARGETS},
            "selection": {
                geometry.NAMES[c]: geometry.select_layer(proj[:, i], cos[:, i], labels == c, labels >= 0)
                for i, c in enumerate(TARGETS)
            },
        }
        words = lens.logit_lens(model, jnp.stack([v[c]["rest"][lens_layer] for c in TARGETS]))
        named = {f"{geometry.NAMES[c]}/{b}": v[c][b] for c in TARGETS for b in geometry.BASELINES}
        return out, words, named

    return program


def analyse(program, trainable, frozen, data, tokenizer, layers: int) -> tuple[dict, dict]:
    """(numbers for the report, vectors) of one model."""
    out, words, named = jax.device_get(program(trainable, frozen, data))
    lensed = dict(zip((geometry.NAMES[c] for c in TARGETS), lens.words(tokenizer, words)))
    numbers = out | {"lens": {"layer": 5 * layers // 6, **lensed}}
    return jax.tree.map(lambda a: a if isinstance(a, int | float | str) else np.asarray(a).tolist(), numbers), named


def steer(graphdef, models: dict, tokenizer, directions: dict, chosen: dict, config, template, key) -> list[dict]:
    """Text of every (model, class, strength, prompt), all cells of one model in one batch (§4).

    models: name -> params; directions: class -> [L, D]; chosen: class -> layer.
    """
    cells = [(c, a, p) for c in ("mold", "gold") for a in config.alphas for p in config.prompts]
    tokens, mask = generate.encode(tokenizer, [p for _, _, p in cells], template)
    layer = np.array([chosen[c] for c, _, _ in cells], np.int32)
    push = np.stack([directions[c][chosen[c]] for c, _, _ in cells])
    # The prompt's own tokens stay as they are: the generation prompt's last token is where the answer begins.
    where = np.zeros_like(mask)
    where[:, -1] = True
    iv = interventions.add(push, layer, np.array([a for _, a, _ in cells]), where)
    out = []
    for name, params in models.items():
        new, kept = jax.device_get(generate.generate(
            graphdef, params, tokens, mask, key, max_new_tokens=config.max_new_tokens, temperature=config.temperature,
            stop=generate.stop_ids(tokenizer), interventions=iv,
        ))  # fmt: skip
        for (c, a, prompt), ids, keep in zip(cells, new, kept):
            said = tokenizer.decode(ids[keep], skip_special_tokens=True)
            out.append({"model": name, "vector": c, "layer": chosen[c], "alpha": a, "prompt": prompt, "text": said})
    return out


def replays(played, grids, temperature, pieces, title: str, group_size: int, count: int = 2):
    """The first episode of each of `count` groups, as the report draws them, and what the whole batch earned."""
    played, grids = jax.device_get((played, grids))
    episodes = [
        record.episode(
            played,
            grids[group],
            pieces.wording,
            row=group * group_size,
            temperature=temperature,
            title=f"{title}, maze {group + 1}",
        )  # fmt: skip
        for group in range(min(count, len(grids)))
    ]
    return episodes, float(played.rewards.sum(-1).mean())


def run(setup, trained, config, workdir, collect, join, live_seed_skip: int = 100_000) -> dict:
    """Everything after training. Writes `vectors/*.safetensors` and `analysis.json`; returns the summary's part."""
    workdir, layers = pathlib.Path(workdir), setup.lm.spec.layers
    bar = tqdm(total=6, desc="analysis", unit="part")
    cfg = config.extract
    data, facts = walk_data(
        setup.pieces, setup.maze, setup.mesh, cfg.per_length, cfg.held_out, cfg.batch, walks_lib.SEED + live_seed_skip
    )
    bar.update()
    program = make_geometry(setup.graphdef, join)
    tokenizer = setup.pieces.tokenizer
    models = {"untrained": setup.initial, "trained": trained}
    result = {"layers": layers, "hook": "resid_post", "classes": ["mold", "gold", "path"], **facts}
    named = {}
    for name, trainable in models.items():
        result[name], named[name] = analyse(program, trainable, setup.frozen, data, tokenizer, layers)
        chosen = {c: result[name]["selection"][c]["layer"] for c in ("mold", "gold")}
        vectors.save(
            workdir / "vectors" / f"{name}.safetensors", named[name], model=f"{config.model.path or 'tiny'} ({name})",
            hook="resid_post", data=facts["data"], layers=chosen,
        )  # fmt: skip
        bar.update()
    chosen = {c: result["trained"]["selection"][c]["layer"] for c in ("mold", "gold")}
    directions = {c: named["trained"][f"{c}/rest"] for c in ("mold", "gold")}
    full = {name: join(trainable, setup.frozen) for name, trainable in models.items()}
    result["samples"] = steer(
        setup.graphdef,
        full,
        tokenizer,
        directions,
        chosen,
        config.steer,
        setup.pieces.template,
        jax.random.key(config.seed),
    )
    bar.update()
    seed = jax.random.fold_in(jax.random.key(config.seed), 2)  # mazes that training never drew
    result["episodes"], rewards = [], {}
    for name, trainable in models.items():
        played, grids = collect(trainable, setup.frozen, seed, 0, config.train.temperature)
        shown, rewards[name] = replays(
            played, grids, config.train.temperature, setup.pieces, name, config.train.group_size
        )
        result["episodes"] += shown
        bar.update()
    result["baselines"] = baselines.table(setup.maze)
    (workdir / "analysis.json").write_text(json.dumps(result))
    bar.close()
    return {
        "cos_trained": result["trained"]["cos"]["rest"], "cos_untrained": result["untrained"]["cos"]["rest"],
        "cos_trained_path": result["trained"]["cos"]["path"], "cos_untrained_path": result["untrained"]["cos"]["path"],
        "layer_mold": chosen["mold"], "layer_gold": chosen["gold"],
        "reward_held_out_trained": rewards["trained"], "reward_held_out_untrained": rewards["untrained"],
    }  # fmt: skip
