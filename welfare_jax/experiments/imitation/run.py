"""Imitation as inverse RL: a sweep over lambda of inverse soft-Q, against maximum likelihood (arXiv:2409.01369).

Two tasks, each a class with the same three methods: `train(workdir, lam)` learns from demonstrations, `sample` draws
from what was learnt at a temperature, `implied` sums the rewards that the logits imply over given samples. lambda = 0
is maximum likelihood. B samples, T tokens, C tokens of a completion, V vocabulary.
"""

import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from welfare_jax import mesh as mesh_lib
from welfare_jax import runtime
from welfare_jax.errors import InputError
from welfare_jax.models import chat, decoder, generate, hf, stops
from welfare_jax.rl import objectives
from welfare_jax.settings import Mesh, Model, typed
from welfare_jax.sft import imitation, planned
from welfare_jax.text import arithmetic, diversity, pieces, wording
from welfare_jax.text.wording import LETTERS
from welfare_jax.train import batch_trainer, loop, state, stats, supervised
from welfare_jax.train.job import Job
from welfare_jax.train.settings import Supervised


class Samples(NamedTuple):
    """What was drawn at one temperature: `samples` answers to every prompt, [B] each."""

    said: list  # words or moves
    prompt: np.ndarray  # the number of the prompt
    reward: np.ndarray  # of the task: 1 for a right answer, the return of an episode
    entropy: np.ndarray  # nats, of the distribution that was sampled, mean over tokens
    rows: object  # what `implied` takes


class Rows(NamedTuple):
    """Completions after their prompts, against the left edge."""

    tokens: np.ndarray  # int32 [B, T]
    mask: np.ndarray  # bool [B, T]
    read: np.ndarray  # int32 [B, C], the slots at which completion tokens are predicted
    targets: np.ndarray  # int32 [B, C]
    shown: np.ndarray  # bool [B, C], real tokens of the completion
    terminal: np.ndarray  # bool [B], it ended by itself
    lam: np.ndarray  # float32 [B], the same everywhere: data, so that another lambda compiles nothing


def lay(prompts, completions, terminal, lam: float, width: int, longest: int) -> Rows:
    """Rows of token lists, `width` slots and `longest` completion tokens each; what is longer is cut, not terminal."""
    ends = np.array([bool(t) and len(c) <= longest for t, c in zip(terminal, completions)])
    after = [c[:longest] for c in completions]
    whole = [[*p, *c] for p, c in zip(prompts, after)]
    tokens, mask = chat.pad(whole, width=width + longest, left=False)
    targets, shown = chat.pad(after, width=longest, left=False)
    starts = np.array([len(p) for p in prompts])
    read = np.minimum(starts[:, None] - 1 + np.arange(longest), width + longest - 1).astype(np.int32)
    lam = np.full(len(whole), lam, np.float32)
    return Rows(tokens, mask, read, targets=targets, shown=shown, terminal=ends, lam=lam)


def make_look(base: state.Adapted, remat: bool):
    """`look(trainable, frozen, rows, temperature) -> (log pi, V, entropy at the temperature)`, [B, C] each."""

    def look(trainable, frozen, rows: Rows, temperature=1.0):
        model = decoder.bind(base.graphdef, base.join(trainable, frozen))
        hidden, _, _ = decoder.backbone(
            model, rows.tokens, rows.mask, read=rows.read, everywhere=False, residual=False, remat=remat,
            slice_last=not remat,
        )  # fmt: skip
        logits = decoder.unembed(model, hidden)
        v = jax.nn.logsumexp(logits, -1)
        logp = jnp.take_along_axis(logits, rows.targets[..., None], -1)[..., 0] - v
        return logp, v, objectives.entropy(objectives.policy_logps(logits, temperature))

    return look


class Arithmetic:
    """Word problems with solutions in three formats; the task's reward is a right answer."""

    name, metric = "arithmetic", "share of right answers"

    def __init__(self, config):
        cfg, self.config = config.imitation.arithmetic, config
        self.cfg = self._train()
        self.base = batch_trainer.load(
            typed(Model, config, "model"), typed(Mesh, config, "mesh"), self.cfg, config.seed
        )
        self.tokenizer = self.base.lm.tokenizer
        self.stops = stops.stop_ids(self.tokenizer, self._template())
        level = arithmetic.Level(**cfg.level.to_dict())
        rng = np.random.default_rng(config.seed)
        problems = arithmetic.problems(config.seed, cfg.demonstrations, level)
        styles = [arithmetic.FORMATS[i] for i in rng.integers(0, len(arithmetic.FORMATS), len(problems))]
        prompts = [self.encode(p) for p in problems]
        completions = [
            [*self.tokenizer.encode(arithmetic.solution(p, style, rng), add_special_tokens=False), self.end]
            for p, style in zip(problems, styles)
        ]
        self.asked = arithmetic.problems(config.seed + 1, config.imitation.prompts, level, held_out=True)
        self.questions = [self.encode(p) for p in self.asked]
        self.width = max(map(len, prompts + self.questions))
        self.longest = cfg.max_new_tokens or max(map(len, completions))
        self.shown = lay(prompts, completions, np.ones(len(prompts)), 0.0, self.width, self.longest)
        decoder.check_ids(self.base.lm.spec, self.shown.tokens, "imitation.arithmetic: demonstrations")
        self.look = jax.jit(make_look(self.base, False))
        self.trainer = batch_trainer.BatchTrainer(self.base, self.loss(), self.cfg)

    def _train(self) -> Supervised:
        """The settings of training, with this task's own where it has any."""
        own, out = self.config.imitation.arithmetic, self.config.train
        batch = own.batch or self.config.sft.batch
        changes = {"batch": batch, "micro_batch": min(batch, out.micro_batch), "lr": own.lr or out.lr}
        changes |= {"steps": own.steps, "schedule_steps": own.steps} if own.steps else {}
        return typed(Supervised, self.config, "train", **changes)

    def _template(self) -> dict:
        """Keyword arguments of the chat template."""
        return pieces.arguments(self.tokenizer, *wording.of(self.config.text))

    @property
    def end(self) -> int:
        return self.tokenizer.eos_token_id

    def encode(self, problem) -> list[int]:
        """The question as a user's message, or as plain text where the tokenizer has no chat template."""
        words, _ = wording.of(self.config.text)
        if self.tokenizer.chat_template is None and not words.transcript:
            return self.tokenizer.encode(arithmetic.prompt(problem))
        talk = chat.render(self.tokenizer, problem.question, self._template())
        return self.tokenizer.encode(talk, add_special_tokens=False)

    def loss(self):
        look = make_look(self.base, self.config.train.remat)

        def loss(trainable, frozen, rows: Rows):
            logp, v, entropy = look(trainable, frozen, rows)
            numerator, count, delta, defined = imitation.soft_q_loss(
                logp, v, rows.shown, rows.terminal, lam=rows.lam[0], gamma=self.config.train.gamma
            )
            mean = lambda x, where: (jnp.sum(jnp.where(where, x, 0.0)), where.sum())
            return numerator, (count, {
                "log_likelihood": mean(logp, rows.shown), "entropy": mean(entropy, rows.shown),
                "implied_reward": mean(delta, defined), "implied_reward_squared": mean(delta**2, defined),
            })  # fmt: skip

        return loss

    def train(self, workdir, lam: float) -> dict:
        order = batch_trainer.shuffled(len(self.shown.tokens), self.config.seed, self.cfg.batch)
        kept = ("seed", "model", "mesh", "text", "train", "sft")
        settings = {k: v for k, v in self.config.to_dict().items() if k in kept}
        settings |= {"arithmetic": self.config.imitation.arithmetic.to_dict(), "soft_q": lam}
        rows = self.shown._replace(lam=np.full_like(self.shown.lam, lam))
        batch = lambda i: jax.tree.map(lambda a: a[order[i]], rows)
        return self.trainer(workdir, settings, rows, batch, f"arithmetic, lambda {lam:g}")

    def sample(self, trainable, temperature: float) -> Samples:
        cfg, base = self.config.imitation, self.base
        params = base.join(trainable, base.frozen)
        prompt = np.repeat(np.arange(len(self.asked)), cfg.samples)
        tokens, mask = chat.pad(self.questions)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.config.seed), 3), len(prompt))
        ids = []
        for rows, n in batch_trainer.parts(len(prompt), cfg.batch, base.mesh):
            new, kept = jax.device_get(generate.generate(
                base.graphdef, params, tokens[prompt[rows]], mask[prompt[rows]], keys[rows],
                max_new_tokens=self.longest, temperature=jnp.full(len(rows), temperature), stop=self.stops,
            ))  # fmt: skip
            ids += [row[k].tolist() for row, k in zip(new[:n], kept[:n])]
        ends = [bool(row) and row[-1] in self.stops for row in ids]
        texts = [self.tokenizer.decode(row[: len(row) - e], skip_special_tokens=True) for row, e in zip(ids, ends)]
        right = [arithmetic.correct(self.asked[p], text) for p, text in zip(prompt, texts)]
        rows = lay([self.questions[p] for p in prompt], ids, ends, 0.0, self.width, self.longest)
        _, _, entropy = self._looked(trainable, rows, max(temperature, 1e-6))
        mean = np.where(rows.shown, entropy, 0.0).sum(1) / np.maximum(rows.shown.sum(1), 1)
        return Samples([t.split() for t in texts], prompt, np.array(right, float), mean, rows)

    def _looked(self, trainable, rows: Rows, temperature: float = 1.0):
        """`look` at all rows, a batch at a time."""
        out = []
        for at, n in batch_trainer.parts(len(rows.tokens), self.config.imitation.batch, self.base.mesh):
            part = jax.device_put(jax.tree.map(lambda a, at=at: a[at], rows), mesh_lib.rows(self.base.mesh))
            found = self.look(trainable, self.base.frozen, part, temperature)
            out.append([np.asarray(a)[:n] for a in found])
        return [np.concatenate(a) for a in zip(*out)]

    def implied(self, trainable, rows: Rows) -> np.ndarray:
        logp, v, _ = self._looked(trainable, rows)
        gamma = self.config.train.gamma
        return np.asarray(imitation.implied_rewards(logp + v, v, rows.shown, rows.terminal, gamma)[0]).sum(1)


class Maze:
    """Planned trajectories; the task's reward is the return of an episode in a maze that was never trained on."""

    name, metric = "maze", "reward per episode"

    def __init__(self, config):
        flat = config.to_dict()
        flat.pop("imitation")
        flat["train"] |= {
            "algorithm": "inverse_soft_q", "groups": config.imitation.prompts, "group_size": config.imitation.samples,
        }  # fmt: skip
        self.job = Job.of(flat | {"job": "rl"})
        self.setup = loop.build(self.job)
        self.supply = supervised.build(self.setup, self.job)
        self.collect = loop.collector(self.setup, self.job)
        self.own = supervised.make_judge(
            self.setup.graphdef, self.setup.pieces, self.job.train, self.supply.width, self.setup.dtype
        )[1]

    def train(self, workdir, lam: float) -> dict:
        job = self.job.changed({"train.soft_q": lam})
        supply = self.supply._replace(batches=planned.pipeline(self.supply.train, job.seed, job.sft.batch))
        return loop.train(self.setup, job, workdir, self.collect, None, supply)

    def sample(self, trainable, temperature: float) -> Samples:
        key = jax.random.fold_in(jax.random.key(self.job.seed), 2)
        played, _ = self.collect(trainable, self.setup.frozen, key, 0, temperature)
        entropy = objectives.entropy(objectives.policy_logps(played.logits, temperature)).mean(1)
        actions, cfg = np.asarray(played.actions), self.job.train
        prompt = np.repeat(np.arange(cfg.groups), cfg.group_size)
        said = [[LETTERS[a] for a in row] for row in actions]
        return Samples(said, prompt, np.asarray(played.rewards).sum(1), np.asarray(entropy), played)

    def implied(self, trainable, rows) -> np.ndarray:
        return np.asarray(self.own(trainable, self.setup.frozen, rows)).sum(1)


TASKS = {"arithmetic": Arithmetic, "maze": Maze}


def quality(found: Samples) -> dict:
    """Task metric, Self-BLEU and entropy: means over prompts with intervals."""
    of = lambda p: np.flatnonzero(found.prompt == p)
    prompts = [of(p) for p in np.unique(found.prompt)]
    parts = {
        "metric": [found.reward[i].mean() for i in prompts],
        "self_bleu": [diversity.self_bleu([found.said[k] for k in i]) for i in prompts],
        "entropy": [found.entropy[i].mean() for i in prompts],
    }
    out = {"prompts": len(prompts), "samples": len(found.said)}
    for name, values in parts.items():
        out |= {name if k == "mean" else f"{name}_{k}": v for k, v in stats.interval(values).items() if k != "n"}
    return out


def sweep(task, lambdas, temperatures, workdir) -> tuple[list, list]:
    """(rows of `quality` over lambda and temperature, rows of rank correlations over lambda).

    The correlations of all lambdas are over the same samples: those that every model drew at the temperature nearest
    to one, together. `within` is the mean over prompts of the correlation within a prompt. One model is held at a
    time: what has trained is read back.
    """
    model = lambda lam: task.train(pathlib.Path(workdir) / run_name(task.name, lam), lam)
    nearest = min(temperatures, key=lambda t: (abs(t - 1), t))
    rows, pool = [], []
    for lam in lambdas:
        trainable = model(lam)
        for temperature in temperatures:
            found = task.sample(trainable, temperature)
            rows.append({"task": task.name, "lambda": lam, "temperature": temperature} | quality(found))
            pool += [found] if temperature == nearest else []
    reward, prompt = (np.concatenate([getattr(s, name) for s in pool]) for name in ("reward", "prompt"))
    ranks = []
    for lam in lambdas:
        trainable = model(lam)
        implied = np.concatenate([task.implied(trainable, s.rows) for s in pool])
        each = stats.within(implied, reward, prompt)
        ranks.append({
            "task": task.name, "lambda": lam, "temperature": nearest, "samples": len(implied),
            "correlation": stats.rank_correlation(implied, reward), "within": each["mean"],
            "within_low": each["low"], "within_high": each["high"], "prompts": each["n"],
        })  # fmt: skip
    return rows, ranks


def run_name(task: str, lam: float) -> str:
    return f"{task}_{lam:g}"


def check(config):
    cfg = config.imitation
    if not cfg.tasks or set(cfg.tasks) - TASKS.keys():
        raise InputError(f"imitation.tasks={tuple(cfg.tasks)}: name some of {', '.join(TASKS)}")
    if not cfg.lambdas or min(cfg.lambdas) < 0 or len(set(cfg.lambdas)) < len(cfg.lambdas):
        raise InputError(f"imitation.lambdas={tuple(cfg.lambdas)}: need different numbers, none below 0")
    if not cfg.temperatures or min(cfg.temperatures) < 0:
        raise InputError(f"imitation.temperatures={tuple(cfg.temperatures)}: need numbers, none below 0")
    for name, least in (("prompts", 1), ("samples", 2), ("batch", 1)):
        if cfg[name] < least:
            raise InputError(f"imitation.{name}={cfg[name]}: must be at least {least}")


def run(config, workdir) -> dict:
    """Train every task under every lambda, measure, leave `analysis.json` and `summary.json`. Returns the summary."""
    check(config)
    workdir, cfg = pathlib.Path(workdir), config.imitation
    tasks, seconds = [TASKS[name](config) for name in cfg.tasks], {}
    quality_rows, rank_rows = [], []
    for task in tasks:
        begin = time.perf_counter()
        rows, ranks = sweep(task, cfg.lambdas, cfg.temperatures, workdir)
        quality_rows, rank_rows = quality_rows + rows, rank_rows + ranks
        seconds[task.name] = round(time.perf_counter() - begin, 2)
    runtime.write_json(workdir / "config.json", config.to_dict())
    batch_trainer.join_metrics(workdir, [run_name(t.name, lam) for t in tasks for lam in cfg.lambdas])
    metrics = {task.name: task.metric for task in tasks}
    runtime.write_json(workdir / "analysis.json", {"metrics": metrics, "quality": quality_rows, "ranks": rank_rows})
    summary = {
        "model": hf.named(config.model), "device": jax.devices()[0].device_kind, "seconds": seconds,
        "rank_correlation": {run_name(r["task"], r["lambda"]): r["correlation"] for r in rank_rows},
    }  # fmt: skip
    runtime.write_json(workdir / "summary.json", summary)
    for name, value in summary["rank_correlation"].items():
        print(f"{name}: implied rewards, rank correlation " + ("none" if value is None else f"{value:+.2f}"))
    return summary
