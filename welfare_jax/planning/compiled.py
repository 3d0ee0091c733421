"""A run rehearsed on the real compiler of a machine that is not there: memory, code and collectives of its programs.

The programs are those that the run itself would compile, on its mesh and with its shardings; their arguments are
shapes, so no weight is read. What only a tokenizer could tell is as long as Qwen3's where there is none.
"""

import dataclasses
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
from welfare_jax.envs import walks
from welfare_jax.errors import InputError
from welfare_jax.interp import extract, reading
from welfare_jax.models import decoder, hf, layers
from welfare_jax.planning import collectives, compilers, cost, devices, estimate
from welfare_jax.sft import planned
from welfare_jax.train import intervene, loop, state
from welfare_jax.train.algorithms import ALGORITHMS
from welfare_jax.train.job import Job


class Program(NamedTuple):
    """Something to compile: `function.lower(*args)`."""

    name: str
    function: Any
    args: tuple


class Compiled(NamedTuple):
    """What the compiler made of a program, in bytes on each device."""

    name: str
    seconds: float
    arguments: int = 0
    temporaries: int = 0
    output: int = 0
    aliased: int = 0  # of the output, written where arguments lay
    beside: int = 0  # of the run's state, what is no argument
    code: int = 0
    sent: list[dict] = []  # as `collectives.table`
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


def setup_of(job: Job, mesh, known: estimate.Source) -> loop.Setup:
    """As `loop.build`, of shapes."""
    where = lambda path, leaf: mesh_lib.sharding(mesh, path, leaf.shape)
    graphdef, shapes, trainable, frozen = estimate.start(known.spec, job)
    path = lambda p: jax.tree_util.keystr(p, simple=True, separator="/")
    shapes = jax.tree_util.tree_map_with_path(lambda p, a: placed(a, where(path(p), a)), shapes)
    trainable, frozen = ({k: placed(v, where(k, v)) for k, v in part.items()} for part in (trainable, frozen))
    base, _ = decoder.structure(known.spec, None, job.model.dtype)
    lm = hf.LM(base, shapes, known.spec, known.pieces.tokenizer, job.model.path)
    return loop.Setup(lm, graphdef, trainable, frozen, mesh, pieces=known.pieces, maze=job.maze)


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


def begin(setup: loop.Setup, job: Job) -> Run:
    """As `loop.runs` and `loop.fresh`."""
    found = []

    def start(params):
        lm = hf.LM(setup.lm.graphdef, params, setup.lm.spec, None, "")
        graph, trainable, frozen = loop.start(lm, job.train, job.seed)
        del graph, frozen
        own = dataclasses.replace(setup, lm=lm, graphdef=None, initial=trainable, frozen={})
        own = loop.runs(own, job)
        found.append(own.jobs)
        return own._replace(jobs=None), loop.begin(own, state.optimizer(job.train))

    own, now = jax.eval_shape(start, setup.lm.params)
    several, everywhere = own.several, mesh_lib.replicated(setup.mesh)
    places = state.shardings(setup.mesh, now, several)
    now = placed(now, places)
    initial = placed(own.initial, places.trainable)
    numbers = placed((own.keys, own.knobs), everywhere)
    tiles = None if own.tiles is None else placed(own.tiles, everywhere)
    own = loop.Runs(found[0], initial, *numbers, tiles)
    return Run(setup, own, now, places, state.optimizer(job.train))


def programs(run: Run, job: Job, lie: dict) -> Iterator[Program]:
    """The programs of the main job in the order in which it compiles them; the caller notes in `lie` where the results
    of each lie, as the next ones are given them."""
    setup, own, cfg = run.setup, run.own, job.train
    algorithm = ALGORITHMS[cfg.algorithm]
    iv = tuple(None if i is None else placed(i, run.everywhere) for i in intervene.build(cfg.intervene, setup.lm.spec))
    collect = loop.rollout_program(setup, job, own.several)
    rollout = Program(
        "rollout", collect, (run.now.trainable, setup.frozen, own.keys, 0, cfg.temperature, iv[0], own.tiles)
    )
    played = None
    yield rollout
    if not algorithm.planned or job.sft.policy_samples:
        with layers.for_accelerators():
            shapes = jax.eval_shape(collect, *rollout.args)[0]
        among = mesh_lib.rows_of_parts if own.several else mesh_lib.rows
        deal = lambda a: among(setup.mesh, a.shape[own.several])
        played = placed(shapes, lie["rollout"][0] if lie.get("rollout") else jax.tree.map(deal, shapes))
    rows, width = None, 0
    if algorithm.planned:
        turns = job.maze.turns
        shape = lambda dtype, *more: ShapeDtypeStruct((job.sft.batch, turns, *more), dtype)
        rows = planned.Planned(
            shape(jnp.int8), shape(jnp.int8, 4), shape(jnp.int16), shape(jnp.int16), shape(jnp.int8, 4),
            shape(jnp.float32),
        )  # fmt: skip
        rows, width = placed(rows, mesh_lib.rows(setup.mesh, job.sft.batch)), setup.pieces.slots(turns, calm=True)
    update = loop.update_program(setup, job, run.tx, run.places, own.several, width)
    initial = own.initial if cfg.kl_coef or algorithm.restart else None
    yield Program("update", update, (run.now, setup.frozen, initial, rows, played, own.knobs, iv[1]))
    parameters = (jax.tree.map(_first, run.now.trainable) if own.several else run.now.trainable, setup.frozen)
    if job.curve.every:
        data = _walks(setup, job, walks.SEED, per_length=job.curve.per_length, held_out=0.25)
        yield Program("live curve", reading.live_program(setup.graphdef, setup.join), (*parameters, data, None))
    walked, axes, draws = job.extract, (0, setup.lm.spec.layers, setup.lm.spec.width), job.extract.replicates
    data = _walks(setup, job, walks.SEED + 100_000)
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


def _walks(setup, job: Job, seed, **changes):
    which = settings.typed(extract.WalkSettings, job.whole, "extract", **changes)
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
        return Compiled(program.name, time.perf_counter() - begin, beside=beside, error=reason(error)), None
    seconds, memory = time.perf_counter() - begin, compiled.memory_analysis()
    sent = collectives.table(collectives.of(compiled.as_text()))
    return Compiled(
        program.name, seconds, arguments=memory.argument_size_in_bytes, temporaries=memory.temp_size_in_bytes,
        output=memory.output_size_in_bytes, aliased=memory.alias_size_in_bytes, beside=beside,
        code=memory.generated_code_size_in_bytes, sent=sent,
    ), compiled.output_shardings  # fmt: skip


def reason(error) -> str:
    said = " ".join(str(error).split())
    used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", said)
    return f"needs {used[1]}iB of {used[2]}iB" if used else said[:200]


PROGRAMS = ("rollout", "update", "live curve", "extraction")


def wanted(asked: settings.Renting) -> list[str]:
    """The programs that `asked.plan_programs` names."""
    names = [name.strip() for name in asked.plan_programs.split(",") if name.strip()] or list(PROGRAMS)
    if odd := [name for name in names if name not in PROGRAMS]:
        raise InputError(f"plan_programs: {odd[0]!r} is none of {', '.join(PROGRAMS)}")
    return names


def compile_all(job: Job, name: str, known: estimate.Source) -> list[Compiled]:
    """The wanted programs of a run on a named machine."""
    names, (found, options) = wanted(job.renting), compilers.find(name)
    axes = mesh_lib.axes(len(found), job.mesh.data, job.mesh.fsdp, job.mesh.tensor)
    kinds = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.make_mesh(axes, mesh_lib.AXES, devices=found, axis_types=kinds)
    loop.check_batch(job.train, job.sft, mesh)
    if job.parallel != "jit":
        raise InputError(f"parallel={job.parallel!r}: plan=compile is for runs with parallel='jit'")
    with layers.for_accelerators():
        run = begin(setup_of(job, mesh, known), job)
    out, lie = [], {}
    with tqdm(desc="compiling", unit="program", total=len(names)) as bar:
        for program in programs(run, job, lie):
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


def report(job: Job) -> str:
    """What `--config.plan=compile` prints for the topology asked for; the same as JSON into `plan_file`."""
    jax.config.update("jax_platforms", "cpu")  # nothing runs but what prepares shapes
    name = job.renting.topology
    if not name:
        raise InputError("plan=compile: name the machine to compile for, for example --config.topology=v6e-8")
    chip, _ = devices.topology(name)
    known = estimate.source(job)
    done = compile_all(job, name, known)
    fits = all(one.fits(chip.memory) for one in done)
    if job.renting.plan_file:
        rows = [one._asdict() | {"most": one.most, "fits": one.fits(chip.memory)} for one in done]
        whole = {"topology": name, "memory": chip.memory, "fits": fits, "programs": rows}
        runtime.write_json(pathlib.Path(job.renting.plan_file).expanduser(), whole)
    note = f" ({known.note})" if known.note else ""
    said = f"the run {'fits' if fits else 'does not fit'} within {estimate.USABLE:.0%} of {_gb(chip.memory)} GB"
    return "\n".join([f"{hf.named(job.model)} on {name}{note}", *lines(done, chip.memory), said])
