"""The evaluations of a run, from prompts to tables (arXiv:2605.30232 §4).

Everything lies in `workdir/evals/`: answers, read-outs and judgements as they come, scores at the end; `evals.json`
beside it is what the report draws. The same command continues where a killed one stopped.
"""

import functools
import json
import pathlib
import time
from collections import Counter

import numpy as np

from welfare_jax import mesh as mesh_lib
from welfare_jax import runtime, textfiles
from welfare_jax.errors import InputError
from welfare_jax.evals import agreement, cells, directions, journal, judge, models, prompts, stats, summary, sweep
from welfare_jax.evals.evaluations import EVALUATIONS, asked
from welfare_jax.evals.harness import Harness
from welfare_jax.evals.journal import Journal
from welfare_jax.evals.settings import Evals, JudgeSettings
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.models import hf
from welfare_jax.planning import evaluations, work
from welfare_jax.settings import typed
from welfare_jax.text import pieces, wording
from welfare_jax.train.job import Job

SHOWN = 3  # prompts of each evaluation whose answers the report shows side by side


def run(config, workdir):
    """`measure`, and its part of the folder's `summary.json`; a finished run keeps its `config.json`."""
    begin = time.perf_counter()
    found = measure(config, workdir)
    read = lambda path: textfiles.loads(textfiles.data(path), str(path)) if path.is_file() else {}
    summary, settings = read(workdir / "summary.json"), read(workdir / "config.json")
    if settings.get("job", "evals") == "evals":
        runtime.write_json(workdir / "config.json", config.to_dict())
    seconds = round(time.perf_counter() - begin, 2)
    runtime.write_json(workdir / "summary.json", summary | {"evals": found | {"seconds": seconds}})


def measure(config, workdir) -> dict:
    """Evaluate `config.evals.names`; writes `evals/*.jsonl` and `evals.json`, returns the summary's part.

    In the folder of a finished run, its newest checkpoint is the trained model and its vectors are steered with,
    unless the config names others.
    """
    cfg, workdir = config.evals, pathlib.Path(workdir)
    ready(config)
    job, steered, compared = Job.of(config), typed(Evals, config, "evals"), typed(AxesSettings, config, "axes")
    evaluations.confirm(config, workdir, work.opened(config.model)[0].spec.layers)
    mesh = mesh_lib.make(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    words, template = wording.of(config.text)
    trained = cfg.trained or (str(workdir) if (workdir / "checkpoints").is_dir() else "")
    sources = list(cfg.vectors) or [str(workdir) if (workdir / "vectors").is_dir() else "maze"]
    loaded = models.load(config.model.path, trained, config.model.dtype, mesh, config.model.revision)
    bank = directions.build(sources, loaded, steered, job)
    template = pieces.arguments(loaded["untrained"].tokenizer, words, template)
    harness = make(config, workdir, loaded, bank, mesh, tiles=words.tiles, template=template)
    axis = sources, loaded["untrained"], bank.hook, compared, template
    # Made where an evaluation asks for it, and once.
    harness.sentiment = functools.cache(functools.partial(directions.sentiment, *axis))
    print(describe(harness, cfg), flush=True)
    runtime.write_json(workdir / "evals" / "config.json", config.to_dict())
    found = evaluate(harness, cfg)
    runtime.write_json(workdir / "evals.json", found)
    own = {n: e.summary(found[e.rows]) for n in cfg.names if (e := EVALUATIONS[n]).summary}
    return {"judge": found["judge"], **own, "slopes": {
        f"{s['evaluation']}, {s['model']} model, {s['vector']}, layer {s['layer']}": [s["slope"], s["error"]]
        for s in found["slopes"]
        if s["metric"] == EVALUATIONS[s["evaluation"]].metric and s["group"] == "all"
        and s["kind"] in ("vector", "untrained")
    }}  # fmt: skip


def describe(harness: Harness, cfg) -> str:
    kinds = Counter(d.kind for d in harness.bank.directions.values())
    said = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return (
        f"evaluations: {', '.join(cfg.names)}; models: {', '.join(harness.models())}; directions: {said}; "
        f"{len(harness.cells)} cells at {harness.bank.hook}; judge: {harness.judge.name}"
    )


def check(cfg):
    """Refuse what would otherwise end in an error long after the start."""
    typed(Evals, {"evals": cfg}, "evals")
    for name in cfg.names:
        asked(cfg, name)
    if not cfg.names or not list(cfg.alphas):
        raise InputError("evals.names and evals.alphas: name at least one evaluation and one strength")
    if cfg.judge.second:
        second(cfg)


def ready(config):
    """`check`, and what the evaluations would otherwise end in: files that cannot be read, a tokenizer that cannot
    render their conversations. Loads tokenizers and no weights, so that it can come before a training."""
    cfg = config.evals
    check(cfg)
    words, template = wording.of(config.text)
    tokenizer = hf.load_tokenizer(hf.resolve(config.model.path, revision=config.model.revision))
    template = pieces.arguments(tokenizer, words, template)
    for name in cfg.names:
        item = prompts.load(cfg[name].prompts, words.tiles, cfg.sample, config.seed)[0]
        said = [(("user", "assistant")[i % 2], item.prompt) for i in range(EVALUATIONS[name].turns)]
        cells.encode(tokenizer, [{"role": role, "content": content} for role, content in said], template)
        if EVALUATIONS[name].ready:
            tokens = lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
            EVALUATIONS[name].ready(asked(cfg, name), tokens, words.tiles)
    if _judged(cfg) and cfg.judge.kind == "model":
        judging = hf.load_tokenizer(hf.resolve(cfg.judge.path))
        cells.encode(judging, "Is it right?", pieces.arguments(judging))


def _judged(cfg) -> bool:
    return any(EVALUATIONS[name].needs_judge(asked(cfg, name)) for name in cfg.names)


def make(config, workdir, loaded, bank, mesh, *, tiles, template) -> Harness:
    """The laboratory on real models. A judge is made only where an evaluation needs one; a local one is loaded when it
    is first asked, and once where it is a model that is loaded already."""
    cfg, seed = config.evals, config.seed

    def local(path):
        @functools.cache
        def opened():
            same = hf.resolve(path) == hf.resolve(config.model.path, revision=config.model.revision)
            return loaded["untrained"] if same else models.load(path, "", cfg.judge.dtype, mesh)["untrained"]

        def options(think):
            return pieces.arguments(opened().tokenizer, template={"enable_thinking": think})

        def device(think):
            return cells.Device(
                {"judge": opened()}, None, mesh, cfg.judge.batch, cfg.buckets, template=options(think), seed=seed
            )

        @functools.cache
        def content():
            return opened().identity + models.spoken(opened().tokenizer, options(False))

        return device, content

    thinking = {name for name, e in EVALUATIONS.items() if e.thinking}
    judging = judge.NONE
    if _judged(cfg):
        judging = judge.build(typed(JudgeSettings, config, "evals.judge"), local, thinking)
    grid = cells.grid(loaded, bank, cfg.layers, cfg.alphas, list(cfg.where))
    device = cells.Device(loaded, bank, mesh, cfg.batch, cfg.buckets, template=template, seed=seed)
    books = {n: Journal(workdir / "evals" / f"{n}.jsonl") for n in ("answers", "readouts", "judgements")}
    identity = {name: model.identity + models.spoken(model.tokenizer, template) for name, model in loaded.items()}
    return Harness(grid, device, judging, identity, bank, **books, tiles=tiles, sample=cfg.sample, seed=seed)


def evaluate(harness: Harness, cfg) -> dict:
    """All evaluations of `cfg.names`: {"cells", "slopes", "sweep", "samples", "judge", ...}, and the tables of those
    that have one of their own, each under its name."""
    named = [EVALUATIONS[name] for name in cfg.names]
    rows = {"scores": []} | {e.rows: [] for e in named}
    for evaluation in named:
        rows[evaluation.rows] += evaluation.run(harness, asked(cfg, evaluation.name))
    own = {name: found for name, found in rows.items() if name != "scores"}
    scores, plain = rows["scores"], lambda v: summary.null(v) if isinstance(v, float) else v
    path = harness.answers.path.parent / "scores.jsonl"
    path.write_text("".join(json.dumps(r | {"cell": r["cell"]._asdict()}) + "\n" for r in scores))
    slopes = summary.slopes(scores, harness.bank)
    summary.against_controls(slopes, {e.name: e.metric for e in named})
    judged = [e.name for e in named if e.judge == "verdict"]
    counts = Counter((r["evaluation"], r["unparseable"]) for r in scores)
    return {
        "evaluations": {e.name: {"metric": e.metric, "title": e.title, "rows": e.rows} for e in named if e.title},
        "cells": summary.by_cell(scores, harness.bank), "slopes": slopes, "sweep": sweep.sweep(slopes),
        **{name: [{k: plain(v) for k, v in r.items()} for r in found] for name, found in own.items()},
        "samples": shown(harness), "mask": stats.MASK, "notes": harness.notes,
        "judge": {
            "name": harness.judge.name,
            "unparseable": {e: counts[e, True] for e in judged},
            "scored": {e: counts[e, True] + counts[e, False] for e in judged},
            "second": cfg.judge.second,
            "agreement": [{k: plain(v) for k, v in r.items()} for r in agreed(harness, cfg)],
        },
        "vectors": {
            n: {"layer": d.layer, "kind": d.kind, "beside": d.beside, "norm": float(np.linalg.norm(d.values[d.layer]))}
            for n, d in harness.bank.directions.items()
        },
        "hook": harness.bank.hook,
    }  # fmt: skip


def agreed(harness: Harness, cfg) -> list[dict]:
    """How far a second judge agrees with this one, an evaluation a row; see evals/agreement.py."""
    if not cfg.judge.second:
        return []
    return agreement.compare(journal.read(harness.judgements.path), second(cfg))


def second(cfg) -> dict:
    """The second judge's rows. Raises `InputError` for a file without any."""
    rows = journal.read(pathlib.Path(cfg.judge.second).expanduser())
    if not any(row.keys() >= agreement.NEEDED for row in rows.values()):
        need = ", ".join(sorted(agreement.NEEDED))
        raise InputError(f"evals.judge.second={cfg.judge.second}: has no judgements (rows with {need})")
    return rows


def shown(harness: Harness) -> list[dict]:
    """First answers to a few prompts of every steered evaluation, without controls, for reading side by side."""
    main = ("", *harness.bank.main())
    steered = {r["evaluation"] for r in harness.said if r["cell"].vector}
    rows = [r for r in harness.said if r["sample"] == 0 and r["cell"].vector in main]
    out = []
    for evaluation in dict.fromkeys(r["evaluation"] for r in rows if r["evaluation"] in steered):
        mine = [r for r in rows if r["evaluation"] == evaluation]
        first = list(dict.fromkeys(r["item"].id for r in mine))[:SHOWN]
        out += [
            {"evaluation": evaluation, **r["cell"]._asdict(), "item": r["item"].id, "prompt": r["prompt"],
             "text": r["answer"]}
            for r in mine if r["item"].id in first
        ]  # fmt: skip
    return out
