"""What the evaluations of a run would ask, counted before anything is loaded; large ones have to be confirmed."""

import pathlib

from welfare_jax.errors import InputError
from welfare_jax.evals import cells, directions, evaluations, prompts
from welfare_jax.evals.evaluation import Grid
from welfare_jax.evals.evaluations import EVALUATIONS
from welfare_jax.evals.settings import Evals, JudgeSettings
from welfare_jax.planning import work
from welfare_jax.settings import typed
from welfare_jax.text import wording

LARGE_CELLS = 1000
LARGE_ROWS = 1_000_000  # answers and read-outs
JUDGE_PROMPT = 300  # tokens of a judge's instructions, roughly


def grid(config, workdir, layers: int, after_training: bool = False) -> Grid:
    """The cells of `config.evals` in a folder. after_training: as it will be once it has a trained model and its
    vectors; else as it is."""
    cfg, workdir = config.evals, pathlib.Path(workdir)
    has = lambda name: after_training or (workdir / name).is_dir()
    trained = bool(cfg.trained) or has("checkpoints")
    own = "maze" if after_training or not (workdir / "vectors").is_dir() else str(workdir)
    bank = directions.outline(list(cfg.vectors) or [own], trained, typed(Evals, config, "evals"), layers)
    names = ["untrained"] + ["trained"] * trained
    found = cells.grid(names, bank, cfg.layers, cfg.alphas, list(cfg.where))
    main = bank.main()
    return Grid(
        len(found), len(names), sum(c.vector in ("", *main) for c in found),
        len({c.layer for c in found if c.vector == main[0]}), len({abs(a) for a in cfg.alphas if a}),
    )  # fmt: skip


def asked(config, found: Grid) -> dict:
    """{evaluation: (its prompts as texts, what it asks)}."""
    cfg, (words, _) = config.evals, wording.of(config.text)
    out = {}
    for name in cfg.names:
        fields = ("well", "reply") if name == "temporal" else ()
        items = prompts.load(cfg[name].prompts, words.tiles, cfg.sample, config.seed, fields)
        texts = [" ".join((item.prompt, *item.more)) for item in items]
        out[name] = texts, EVALUATIONS[name].work(evaluations.asked(cfg, name), found, len(items))
    return out


def stages(config, workdir, model: work.Model, after_training: bool = False) -> list[work.Stage]:
    """A stage an evaluation and, where judged by a model of one's own, one for its judge."""
    cfg, found = config.evals, grid(config, workdir, model.spec.layers, after_training)
    out = []
    for name, (texts, asks) in asked(config, found).items():
        length = sum(map(model.length, texts)) / len(texts) + TEMPLATE
        parts = [
            model.write(a.count, length + a.more, a.new, cfg.batch) if a.new else model.read(a.count, length + a.more)
            for a in asks
        ]
        told = ", ".join(f"{work.number(a.count)} {a.kind}" for a in asks)
        out.append(work.total(f"evaluation {name}", f"{found.cells:,} cells, {len(texts)} prompts: {told}", *parts))
        judged = [a for a in asks if a.judged]
        if judged and EVALUATIONS[name].needs_judge(evaluations.asked(cfg, name)):
            out.append(judging(config, name, sum(a.count for a in judged), length + judged[0].new))
    return out


TEMPLATE = 15  # tokens of a chat template around a prompt, roughly


def judging(config, name: str, count: int, length: float) -> work.Stage:
    """What a judge reads and writes; at most, for equal answers are judged once."""
    cfg, who = typed(JudgeSettings, config, "evals.judge"), f"judge of {name}"
    if cfg.kind != "model":
        return work.Stage(who, f"{work.number(count)} answers, {cfg.kind}")
    model, _ = work.opened({"path": cfg.path, "dtype": cfg.dtype})
    think = cfg.thinking and EVALUATIONS[name].thinking
    new = cfg.thinking_tokens if think else cfg.max_new_tokens
    return work.total(
        who, f"{work.number(count)} answers, {cfg.path}", model.write(count, length + JUDGE_PROMPT, new, cfg.batch)
    )


def confirm(config, workdir, layers: int, after_training: bool = False):
    """Refuse evaluations so large that nobody should start them without having seen it, unless `config.confirm`."""
    if config.confirm or not config.evals.names:
        return
    found = grid(config, workdir, layers, after_training)
    rows = sum(a.count for _, asks in asked(config, found).values() for a in asks)
    if found.cells > LARGE_CELLS or rows > LARGE_ROWS:
        raise InputError(
            f"evals: {found.cells:,} cells with {work.number(rows)} answers and read-outs are many; see "
            f"--config.plan=True, make fewer with --config.evals.sample=0.1, evals.random or evals.permuted, or start "
            f"them with --config.confirm=True"
        )
