"""python -m welfare_jax.bench NAME --json: measurements of the parts on random weights, one JSON object on one line.

The default shape is small: 4 layers, width 256, the Qwen3 vocabulary, float32. Seconds are medians of the repeats,
compilation apart. Timings on shared machines are noisy: compare in one run, as ratios.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from welfare_jax import runtime
from welfare_jax.errors import InputError
from welfare_jax.planning import devices

QWEN3_VOCABULARY = 151_936


class Bench:
    """The pieces that the measurements share, made from the command line."""

    def __init__(self, args):
        import jax

        from welfare_jax import mesh as mesh_lib
        from welfare_jax.envs import maze
        from welfare_jax.models import decoder, hf, spec, stops
        from welfare_jax.text import pieces

        self.mesh = mesh_lib.make()
        self.args, self.maze, self.key = args, maze.Params(), jax.random.key(0)
        vocab = QWEN3_VOCABULARY
        if args.tokenizer:
            tokenizer = hf.load_tokenizer(pathlib.Path(args.tokenizer))
            vocab, self.pieces = stops.vocabulary_size(tokenizer), pieces.build(tokenizer)
        else:
            self.pieces = pieces.stand_in()
        self.spec = spec.small(
            vocab, **{k: getattr(args, k) for k in ("layers", "width", "heads", "kv_heads", "head_dim", "mlp")}
        )
        if args.name != "load":  # which reads its parameters
            self.graphdef, params = decoder.init(self.spec, self.key, args.dtype)
            self.params = jax.device_put(params, mesh_lib.replicated(self.mesh))
        self.episodes = args.groups * args.group_size

    def time(self, run):
        """(median seconds, compile seconds, last result) of `run(i)`."""
        import jax

        begin = time.perf_counter()
        jax.block_until_ready(run(0))
        first = time.perf_counter() - begin
        seconds = []
        for i in range(1, self.args.repeats + 1):
            begin = time.perf_counter()
            out = jax.block_until_ready(run(i))
            seconds.append(time.perf_counter() - begin)
        median = statistics.median(seconds)
        return median, max(first - median, 0.0), out

    def collect(self, graphdef):
        import jax

        from welfare_jax.train import step

        sizes = {"groups": self.args.groups, "group_size": self.args.group_size}
        return jax.jit(step.make_collect(graphdef, self.pieces, self.maze, **sizes, mesh=self.mesh))

    def lora(self):
        import jax

        from welfare_jax.models import lora
        from welfare_jax.models.layers import Lora
        from welfare_jax.train import state

        graphdef, params = lora.attach(self.graphdef, self.params, Lora(32, 64.0), jax.random.key(1))
        return graphdef, *(state.placed(part, self.mesh) for part in state.split(params, lora.PATTERN))


def shares(b: Bench, seconds: float) -> dict:
    """Where a rollout's time goes, from the same episode without the model, and without model and text."""
    import jax
    import jax.numpy as jnp

    from welfare_jax.rl import rollout as r

    bare = jax.tree.map(jnp.zeros_like, b.pieces.table)

    def without(table, widths):
        @jax.jit
        def program(i):
            k_maze, k_play = jax.random.split(jax.random.fold_in(b.key, i))
            states = r.group_states(k_maze, b.args.groups, b.args.group_size, b.maze)
            keys = jax.random.split(k_play, b.episodes)
            return r.play(
                r.uniform(), None, table, b.pieces.size, widths, b.maze, states=states, keys=keys, temperature=0.7
            )

        return b.time(program)[0]

    both, maze = without(b.pieces.table, b.pieces.widths()), without(bare._replace(tokens=bare.tokens[:, :1]), (1, 1))
    return {
        "share_model": 1 - both / seconds, "share_text": max(both - maze, 0.0) / seconds, "share_maze": maze / seconds,
    }  # fmt: skip


def rollout(b: Bench) -> dict:
    """Whole episodes: `groups` mazes x `group_size` episodes."""
    from welfare_jax.models import lora

    program, frozen = b.collect(b.graphdef), lora.flat(b.params)
    seconds, compiling, (played, _) = b.time(lambda i: program({}, frozen, b.key, i, 0.7))
    tokens = int(played.mask.sum())
    context = tokens / b.episodes / 2
    return {
        "seconds": seconds, "compile_seconds": compiling, "episodes_per_s": b.episodes / seconds,
        "tokens_per_s": tokens / seconds, "tokens": tokens, "flops": tokens * b.spec.flops_per_token(context),
        **shares(b, seconds),
    }  # fmt: skip


def update(b: Bench) -> dict:
    """One Dr. GRPO update with LoRA 32 on the episodes of one rollout."""
    import jax
    import jax.numpy as jnp

    from welfare_jax import config
    from welfare_jax.settings import typed
    from welfare_jax.train import parallel, state, step
    from welfare_jax.train.settings import MazeTraining

    sizes = {"group_size": b.args.group_size, "micro_batch": min(b.args.micro_batch, b.episodes)}
    cfg = typed(MazeTraining, config.rl(), "train", remat=b.args.remat, **sizes)
    graphdef, trainable, frozen = b.lora()
    played, _ = b.collect(graphdef)(trainable, frozen, b.key, 0, 0.7)
    tx = state.optimizer(cfg)
    where = parallel.devices("jit", b.mesh)
    program = jax.jit(step.make_update(graphdef, b.pieces, tx, cfg, b.maze, devices=where))
    now = state.State(jnp.int32(0), trainable, tx.init(trainable))
    seconds, compiling, _ = b.time(lambda i: program(now, frozen, None, played, 0.7))
    tokens = int(played.mask.sum())
    # Backward: one product for each of a frozen kernel's (it needs no gradient), two for each of attention's.
    linear, whole = b.spec.flops_per_token(0), b.spec.flops_per_token(tokens / b.episodes / 2)
    return {
        "seconds": seconds, "compile_seconds": compiling, "episodes_per_s": b.episodes / seconds,
        "tokens_per_s": tokens / seconds, "tokens": tokens, "flops": tokens * (3 * whole - linear),
    }  # fmt: skip


def walks_a_class(args) -> int:
    """Extraction walks of one class and length."""
    return max(1, args.groups * args.group_size // 8)


def extract(b: Bench) -> dict:
    """Class means over extraction walks, all layers; with permutations, also the sums that their null is made of."""
    import jax

    from welfare_jax import mesh as mesh_lib
    from welfare_jax.envs import walks as walks_lib
    from welfare_jax.interp import extract as x
    from welfare_jax.models import decoder

    samples = x.of_walks(b.pieces, walks_lib.generate(b.maze, walks_a_class(b.args)))
    place = lambda a: jax.device_put(a, mesh_lib.rows_of_parts(b.mesh, a.shape[1]))
    n, data = len(samples.tokens), x.buckets(samples, 16, b.maze.turns, place)  # one bucket a length: no padding
    program = jax.jit(lambda params, data: x.moments(
        decoder.bind(b.graphdef, params), data, permutations=b.args.permutations
    ))  # fmt: skip
    seconds, compiling, _ = b.time(lambda i: program(b.params, data))
    return {
        "seconds": seconds, "compile_seconds": compiling, "trajectories_per_s": n / seconds, "trajectories": n,
        "tokens_per_s": int(samples.mask.sum()) / seconds,
    }  # fmt: skip


def steer(b: Bench) -> dict:
    """Steered sampling: 32 prompts of about 52 tokens, 64 new tokens each, a vector, layer and strength a row."""
    import jax
    import numpy as np

    from welfare_jax.models import generate, interventions

    rng = np.random.default_rng(0)
    rows, new = 32, 64
    tokens = rng.integers(0, min(1000, b.spec.vocab), (rows, 56))
    mask = np.arange(56)[None] >= rng.integers(0, 9, (rows, 1))
    iv = interventions.add(
        rng.normal(size=(rows, b.spec.width)), rng.integers(0, b.spec.layers, rows), rng.normal(size=rows)
    )

    def run(i):
        return generate.generate(
            b.graphdef, b.params, tokens, mask, jax.random.key(i), max_new_tokens=new, temperature=0.7,
            interventions=iv,
        )  # fmt: skip

    seconds, compiling, _ = b.time(run)
    done = rows * new
    flops = (done + int(mask.sum())) * b.spec.flops_per_token(84) + done * 2 * b.spec.width * b.spec.vocab
    return {
        "seconds": seconds,
        "compile_seconds": compiling,
        "tokens_per_s": done / seconds,
        "tokens": done,
        "flops": flops,
    }


def load(b: Bench) -> dict:
    """Reading a Hugging Face folder: one of random numbers in this shape, in a process of its own, or `--folder`,
    which may be a GGUF file."""
    from welfare_jax.models import gguf, hf, hf_save

    if b.args.folder:
        folder = pathlib.Path(b.args.folder)
        files = [file] if (file := gguf.find(folder)) else folder.glob("*.safetensors")
        size = sum(p.stat().st_size for p in files)
        seconds, compiling, _ = b.time(lambda i: hf.load_params(folder, b.args.dtype)[2].layers)  # one model at a time
        return {"seconds": seconds, "compile_seconds": compiling, "mb": size / 1e6, "gb_per_s": size / 1e9 / seconds}
    with tempfile.TemporaryDirectory() as folder:
        hf_save.write_random(pathlib.Path(folder), b.spec, hf.load_tokenizer(hf.TINY), b.args.dtype)
        flags = ["--folder", folder, "--dtype", b.args.dtype, "--repeats", str(b.args.repeats), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "welfare_jax.bench", "load", *flags], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise InputError(
            done.stderr.strip().splitlines()[-1].removeprefix("error: ") if done.stderr else "load failed"
        )
    return json.loads(done.stdout)


ROUNDS = 10  # episodes from the same start in one call: one alone would mostly measure the call


def env(b: Bench) -> dict:
    """The maze alone, random actions, on all devices: with a fresh maze for every episode, and without generation."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec as P

    from welfare_jax import mesh as mesh_lib
    from welfare_jax.envs import maze

    n, turns, count = b.args.envs, b.maze.turns, jax.device_count()
    share = functools.partial(
        jax.shard_map, mesh=mesh_lib.make(0, 1, 1), in_specs=P("data"), out_specs=P("data"), check_vma=False
    )

    @jax.jit
    def fresh(key):
        return share(lambda keys: jax.vmap(maze.reset, (0, None))(keys, b.maze)[1])(jax.random.split(key, n))

    @jax.jit
    @share
    def play(states, keys):
        """Episodes on one device; their randomness is drawn at once, which costs less than a turn at a time."""
        shape = (turns, n // count)

        def turn(states, drawn):
            obs, states, reward, *_ = jax.vmap(maze.step, (0, 0, 0, None))(drawn[0], states, drawn[1], b.maze)
            return states, (obs.neighbours.sum(), reward.sum())  # what a player would use is computed

        def episodes(key):
            k_steps, k_actions = jax.random.split(key)
            actions = jax.random.bits(k_actions, shape, jnp.uint8).astype(jnp.int32) % 4
            return jax.lax.scan(turn, states, (jax.random.split(k_steps, shape), actions))[1]

        return jax.lax.map(episodes, jax.random.split(keys[0], ROUNDS))

    making, compiling, states = b.time(lambda i: fresh(jax.random.key(i)))
    playing, more, _ = b.time(lambda i: play(states, jax.random.split(jax.random.key(i), count)))
    playing /= ROUNDS
    return {
        "seconds": making + playing, "compile_seconds": compiling + more, "devices": count,
        "mazes_per_s": n / making, "steps_per_s": n * turns / (making + playing),
        "steps_per_s_without_generation": n * turns / playing,
    }  # fmt: skip


NAMES = {f.__name__: f for f in (rollout, update, extract, steer, load, env)}


def matmul_peak(dtype) -> float:
    """FLOP/s of a large matrix product in this process, best of five."""
    import jax
    import jax.numpy as jnp

    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (n, n)).astype(jnp.dtype(dtype))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = 1e9
    for _ in range(5):
        begin = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2 * n**3 / best


def peak_mb() -> float:
    """Peak device memory where the backend reports it, else the process's peak resident size, in MB."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    found = stats.get("peak_bytes_in_use")
    return (found or runtime.peak_bytes()) / 1e6


def arguments():
    parser = argparse.ArgumentParser(prog="python -m welfare_jax.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", choices=sorted(NAMES))
    parser.add_argument("--json", action="store_true", help="print one JSON object on one line")
    for flag, default in (
        ("layers", 4), ("width", 256), ("heads", 4), ("kv-heads", 2), ("head-dim", 64), ("mlp", 768), ("groups", 2),
        ("group-size", 16), ("repeats", 5), ("envs", 1024),
    ):  # fmt: skip
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--micro-batch", type=int, default=0, help="update: episodes a gradient pass (2 a device)")
    parser.add_argument("--permutations", type=int, default=0, help="extract: of the labels (a run takes 1,000)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tokenizer", metavar="DIR", help="a tokenizer folder; default: pieces as long as Qwen3's")
    parser.add_argument("--folder", metavar="DIR", help="load: read this folder instead of one made up")
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")
    return parser


def shared_rows(args) -> int:
    """How many rows the devices share at a time; 0 where a measurement runs on one."""
    episodes = args.groups * args.group_size
    rows = {"env": args.envs, "rollout": episodes, "update": min(args.micro_batch, episodes)}
    return (rows | {"extract": 3 * walks_a_class(args)}).get(args.name, 0)  # a batch holds the walks of one length


def main(argv=None) -> int:
    args = arguments().parse_args(argv)
    runtime.quiet()
    runtime.keep_heap()
    rows = shared_rows(args)
    if rows and args.name != "update":  # a device for each core that the rows allow; an update gains nothing
        count = math.gcd(rows, os.cpu_count() or 1)
        flags = f"--xla_force_host_platform_device_count={count}"
        if args.name == "env":  # a step is too small for threads to share: on CPU, the loop over steps is one kernel
            flags += " --xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=100000000"
        os.environ.setdefault("XLA_FLAGS", flags)
    try:
        import jax

        episodes = args.groups * args.group_size
        args.micro_batch = args.micro_batch or math.gcd(2 * jax.device_count(), episodes)
        if episodes % min(args.micro_batch, episodes):
            raise InputError(f"--micro-batch {args.micro_batch}: must divide the {episodes} episodes")
        rows = shared_rows(args)
        if rows % jax.device_count() and args.name != "extract":  # whose batches stay whole then
            raise InputError(f"{args.name}: {rows} rows are not a multiple of the {jax.device_count()} devices here")
        bench = Bench(args)
        out = {"name": args.name, **NAMES[args.name](bench)}
        kind = jax.devices()[0].device_kind
        if "flops" in out:
            rate, peak = out.pop("flops") / out["seconds"], devices.peak(kind, args.dtype)
            out["fraction_of_matmul_peak"] = rate / matmul_peak(args.dtype)
            out |= {"mfu": rate / peak} if peak else {}
        out = {"peak_mb": peak_mb(), "device": kind, "jax": jax.__version__} | out
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in out.items()}
    print(json.dumps(out) if args.json else "\n".join(f"{k:>32}  {v}" for k, v in out.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
