"""A run rehearsed on the real compiler of a machine that is not there: memory, code and collectives of its programs.

The programs are those that the run itself would compile, on its mesh and with its shardings; their arguments are
shapes, so no weight is read. What only a tokenizer could tell is as long as Qwen3's where there is none.
"""

import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from tqdm import tqdm

from welfare_jax import mesh as mesh_lib
from welfare_jax import runtime, settings
from welfare_jax.envs import maze, walks
from welfare_jax.errors import InputError
from welfare_jax.interp import extract, reading
from welfare_jax.models import decoder, hf, layers
from welfare_jax.planning import collectives, compilers, cost, devices, estimate
from welfare_jax.sft import planned
from welfare_jax.train import intervene, loop, state
from welfare_jax.train.algorithms import ALGORITHMS


class Program(NamedTuple):
    """Something to compile: `function.lower(*args)`."""

    name: str
    function: Any
    args: tuple


class Compiled(NamedTuple):
    """What the compiler made of a program, in bytes on each device."""

    name: str
    seconds: float
    arguments: int
    temporaries: int
    output: int
    aliased: int  # of the output, written where arguments lay
    beside: int  # of the run's state, what is no argument
    code: int
    sent: list[dict]  # as `collectives.table`
    error: str = ""  # why there is no program

    @property
    def most(self) -> int:
        """The most that a device holds while the program runs."""
        return self.arguments + self.temporaries + self.output - self.aliased + self.beside + self.code

    def fits(self, memory: float) -> bool:
        return not self.error and self.most <= estimate.USABLE * memory


def placed(tree, where):
    """Shapes of arrays, or arrays, as shapes that lie somewhere; where: a sharding or a tree of them."""
    if isinstance(where, jax.sharding.Sharding):
        return jax.tree.map(lambda a: ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)
    return jax.tree.map(lambda a, s: ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, where)


def held(tree) -> int:
    """Bytes of these shapes on one device."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    extended = lambda a: jax.dtypes.issubdtype(a.dtype, jax.dtypes.extended)
    return sum(
        cost.size(ShapeDtypeStruct(a.sharding.shard_shape(a.shape) if a.sharding else a.shape, a.dtype))
        for a in leaves
        if not extended(a)
    )


def setup_of(config, mesh, known: estimate.Source) -> loop.Setup:
    """As `loop.build`, of shapes."""
    params = maze.Params(**config.maze.to_dict()).check()
    where = lambda path, leaf: mesh_lib.sharding(mesh, path, leaf.shape)
    graphdef, shapes, trainable, frozen = estimate.start(known.spec, config)
    path = lambda p: jax.tree_util.keystr(p, simple=True, separator="/")
    shapes = jax.tree_util.tree_map_with_path(lambda p, a: placed(a, where(path(p), a)), shapes)
    trainable, frozen = ({k: placed(v, where(k, v)) for k, v in part.items()} for part in (trainable, frozen))
    base, _ = decoder.structure(known.spec, None, config.model.dtype)
    lm = hf.LM(base, shapes, known.spec, known.pieces.tokenizer, config.model.path)
    return loop.Setup(lm, graphdef, trainable, frozen, mesh, known.pieces, params)


class Run(NamedTuple):
    """A run between two steps, in shapes."""

    setup: loop.Setup
    own: loop.Runs
    now: state.State
    places: Any
    tx: Any

    @property
    def alive(self):
        return self.now, self.own.initial, self.setup.frozen

    @property
    def everywhere(self):
        return mesh_lib.replicated(self.setup.mesh)


def begin(setup: loop.Setup, config) -> Run:
    """As `loop.runs` and `loop.fresh`."""
    found = []

    def start(params):
        lm = hf.LM(setup.lm.graphdef, params, setup.lm.spec, None, "")
        graph, trainable, frozen = loop.start(lm, config)
        del graph, frozen
        own = loop.runs(loop.Setup(lm, None, trainable, {}, setup.mesh, setup.pieces, setup.maze), config)
        found.append(own.configs)
        return own._replace(configs=None), loop.begin(own, state.optimizer(config.train))

    own, now = jax.eval_shape(start, setup.lm.params)
    several, everywhere = own.several, mesh_lib.replicated(setup.mesh)
    places = state.shardings(setup.mesh, now, several)
    now = placed(now, places)
    initial = placed(own.initial, places.trainable)
    numbers = placed((own.keys, own.knobs), everywhere)
    tiles = None if own.tiles is None else placed(own.tiles, everywhere)
    own = loop.Runs(found[0], initial, *numbers, tiles)
    return Run(setup, own, now, places, state.optimizer(config.train))


def programs(run: Run, config, lie: dict) -> Iterator[Program]:
    """The programs of the main job in the order in which it compiles them; the caller notes in `lie` where the results
    of each lie, as the next ones are given them."""
    setup, own, cfg = run.setup, run.own, config.train
    algorithm = ALGORITHMS[cfg.algorithm]
    iv = tuple(None if i is None else placed(i, run.everywhere) for i in intervene.build(cfg.intervene, setup.lm.spec))
    collect = loop.rollout_program(setup, config, own.several)
    rollout = Program(
        "rollout", collect, (run.now.trainable, setup.frozen, own.keys, 0, cfg.temperature, iv[0], own.tiles)
    )
    played = None
    yield rollout
    if not algorithm.planned or config.sft.policy_samples:
        with layers.for_accelerators():
            shapes = jax.eval_shape(collect, *rollout.args)[0]
        among = mesh_lib.rows_of_parts if own.several else mesh_lib.rows
        deal = lambda a: among(setup.mesh, a.shape[own.several])
        played = placed(shapes, lie["rollout"][0] if lie.get("rollout") else jax.tree.map(deal, shapes))
    rows, width = None, 0
    if algorithm.planned:
        turns = config.maze.turns
        shape = lambda dtype, *more: ShapeDtypeStruct((config.sft.batch, turns, *more), dtype)
        rows = planned.Planned(
            shape(jnp.int8), shape(jnp.int8, 4), shape(jnp.int16), shape(jnp.int16), shape(jnp.int8, 4),
            shape(jnp.float32),
        )  # fmt: skip
        rows, width = placed(rows, mesh_lib.rows(setup.mesh, config.sft.batch)), setup.pieces.slots(turns, calm=True)
    update = loop.update_program(setup, config, run.tx, run.places, own.several, width)
    initial = own.initial if cfg.kl_coef or algorithm.restart else None
    yield Program("update", update, (run.now, setup.frozen, initial, rows, played, own.knobs, iv[1]))
    parameters = (jax.tree.map(_first, run.now.trainable) if own.several else run.now.trainable, setup.frozen)
    if config.curve.every:
        data = _walks(setup, config, walks.SEED, per_length=config.curve.per_length, held_out=0.25)
        yield Program("live curve", reading.live_program(setup.graphdef, setup.join), (*parameters, data, None))
    walked, axes, draws = config.extract, (0, setup.lm.spec.layers, setup.lm.spec.width), config.extract.replicates
    data = _walks(setup, config, walks.SEED + 100_000)
    read = reading.make(setup.graphdef, setup.join, draws, permutations=walked.permutations)
    noise = ShapeDtypeStruct((0, draws, *axes[1:]), jnp.float32)
    compared = placed(reading.Compared(ShapeDtypeStruct(axes, jnp.float32), noise, noise), run.everywhere)
    key = placed(jax.eval_shape(lambda: jax.random.key(0)), run.everywhere)
    yield Program("extraction", read, (*parameters, data, compared, key))


def _first(leaf):
    """Of a leaf of organisms, one's."""
    where = leaf.sharding
    spec = jax.sharding.PartitionSpec(*where.spec[1:])
    return ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=jax.sharding.NamedSharding(where.mesh, spec))


def _walks(setup, config, seed, **changes):
    which = settings.typed(extract.WalkSettings, config.extract, **changes)
    if which.question and setup.pieces.tokenizer is None:
        raise InputError(f"extract.question={which.question!r}: needs the model's tokenizer, which is not at hand")
    return extract.walk_data(setup.pieces, setup.maze, setup.mesh, which, seed, placed)[0]


def build(program: Program, alive, options: dict) -> tuple[Compiled, Any]:
    """(what the compiler made of it, where its results lie or None)."""
    begin, others = time.perf_counter(), {id(leaf) for leaf in jax.tree.leaves(program.args)}
    beside = held([leaf for leaf in jax.tree.leaves(alive) if id(leaf) not in others])
    try:
        with layers.for_accelerators():
            lowered = program.function.lower(*program.args)
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        return Compiled(program.name, time.perf_counter() - begin, 0, 0, 0, 0, beside, 0, [], reason(error)), None
    seconds, memory = time.perf_counter() - begin, compiled.memory_analysis()
    sent = collectives.table(collectives.of(compiled.as_text()))
    return Compiled(
        program.name, seconds, memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.output_size_in_bytes,
        memory.alias_size_in_bytes, beside, memory.generated_code_size_in_bytes, sent,
    ), compiled.output_shardings  # fmt: skip


def reason(error) -> str:
    said = " ".join(str(error).split())
    used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", said)
    return f"needs {used[1]}iB of {used[2]}iB" if used else said[:200]


PROGRAMS = ("rollout", "update", "live curve", "extraction")


def wanted(config) -> list[str]:
    """The programs that `config.plan_programs` names."""
    names = [name.strip() for name in config.plan_programs.split(",") if name.strip()] or list(PROGRAMS)
    if odd := [name for name in names if name not in PROGRAMS]:
        raise InputError(f"config.plan_programs: {odd[0]!r} is none of {', '.join(PROGRAMS)}")
    return names


def compile_all(config, name: str, known: estimate.Source) -> list[Compiled]:
    """The wanted programs of a run on a named machine."""
    names, (found, options) = wanted(config), compilers.find(name)
    axes = mesh_lib.axes(len(found), config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    kinds = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.make_mesh(axes, mesh_lib.AXES, devices=found, axis_types=kinds)
    loop.check_batch(config, mesh)
    if config.parallel != "jit":
        raise InputError(f"config.parallel={config.parallel!r}: plan=compile is for runs with parallel='jit'")
    with layers.for_accelerators():
        run = begin(setup_of(config, mesh, known), config)
    out, lie = [], {}
    with tqdm(desc="compiling", unit="program", total=len(names)) as bar:
        for program in programs(run, config, lie):
            if program.name in names:
                bar.set_postfix_str(program.name)
                done, lie[program.name] = build(program, run.alive, options)
                out.append(done)
                bar.update()
            if len(out) == len(names):
                break
    return out


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f}"


def lines(done: list[Compiled], memory: float) -> list[str]:
    """The table, and under it what each program sends."""
    head = ("program", "compiled", "arguments", "temporary", "output", "aliased", "beside", "code", "most", "")
    rows = ["".join(f"{word:>{11 if i else 18}}" for i, word in enumerate(head)) + "  (GB a device)"]
    for one in done:
        if one.error:
            rows.append(f"{one.name:>18}{one.seconds:>9.0f} s  does not compile: {one.error}")
            continue
        sizes = (one.arguments, one.temporaries, one.output, one.aliased, one.beside, one.code, one.most)
        cells = "".join(f"{_gb(size):>11}" for size in sizes)
        rows.append(f"{one.name:>18}{one.seconds:>9.0f} s{cells}  {'fits' if one.fits(memory) else 'does not fit'}")
    for one in done:
        for sent in one.sent:
            where = "in loops" if sent["in_loops"] else "once"
            least = "" if sent["counted"] else ", at least (a loop's length is not known)"
            rows.append(
                f"{one.name}: {sent['bytes'] / 1e6:,.1f} MB of {sent['kind']} in {sent['dtype']}, {sent['count']} "
                f"{where}, {sent['runs']} runs{least}"
            )
    return rows


def report(config) -> str:
    """What `--config.plan=compile` prints for `config.topology`; the same as JSON into `config.plan_file`."""
    jax.config.update("jax_platforms", "cpu")  # nothing runs but what prepares shapes
    loop.check(config)
    name = config.topology
    if not name:
        raise InputError("plan=compile: name the machine to compile for, for example --config.topology=v6e-8")
    chip, _ = devices.topology(name)
    known = estimate.source(config)
    done = compile_all(config, name, known)
    fits = all(one.fits(chip.memory) for one in done)
    if config.plan_file:
        rows = [one._asdict() | {"most": one.most, "fits": one.fits(chip.memory)} for one in done]
        whole = {"topology": name, "memory": chip.memory, "fits": fits, "programs": rows}
        runtime.write_json(pathlib.Path(config.plan_file).expanduser(), whole)
    note = f" ({known.note})" if known.note else ""
    said = f"the run {'fits' if fits else 'does not fit'} within {estimate.USABLE:.0%} of {_gb(chip.memory)} GB"
    return "\n".join([f"{hf.named(config.model)} on {name}{note}", *lines(done, chip.memory), said])
