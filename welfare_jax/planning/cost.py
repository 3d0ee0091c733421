"""What a program costs before it is compiled: its arithmetic, and the memory it needs beside its arguments.

Both are read off the jaxpr, so they follow the code. Memory is an estimate: a buffer lives from the operation that
makes it to the last one that reads it, elementwise chains are fused into what reads them, loops update in place.
Layouts, other fusions and the compiler's own order are not modelled; tests compare with XLA's figures.
"""

import math
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

# The same buffer under another name or shape.
VIEWS = {"reshape", "squeeze", "expand_dims", "transpose", "stop_gradient", "copy", "sharding_constraint"}
# Written where their first operand lay.
IN_PLACE = {"dynamic_update_slice", "scatter", "scatter-add"}
# Read whole operands from memory; all others but reductions are fused into what reads them.
WHOLE = {"dot_general", "conv_general_dilated", "scan", "while", "cond", "sort", "top_k", "cumsum", *IN_PLACE}


class Cost(NamedTuple):
    flops: float  # of matrix products, two a multiply-add; the dearest side of a branch, one turn of a `while`
    bytes: int  # the most that is alive at once beside the arguments, results included


class _Op(NamedTuple):
    """An equation with its operands and results as numbers of values; literals are None."""

    name: str
    eqn: Any
    ins: list
    outs: list


class _Program(NamedTuple):
    """A jaxpr with all calls written out."""

    ops: list
    sizes: list  # bytes of each value
    inputs: list
    results: list


def of(function, *args, donated: bool = False) -> Cost:
    """The cost of `function(*args)`; args may be `jax.ShapeDtypeStruct`s, and nothing is computed.

    donated: the first argument's memory may be used again, as under `jax.jit(..., donate_argnums=0)`.
    """
    return traced(function, *args, donated=donated)[0]


def traced(function, *args, donated: bool = False) -> tuple[Cost, Any]:
    """`of`, and the shapes of what the function returns: both from one trace."""
    jaxpr, results = jax.make_jaxpr(function, return_shape=True)(*args)
    found = _measure(jaxpr.jaxpr, donated=range(len(jax.tree.leaves(args[0]))) if donated else ())
    return found._replace(bytes=found.bytes - donated * tree_size(args[0])), results


def size(array) -> int:
    """Bytes of an array, or of something with its shape and type."""
    return math.prod(array.shape) * array.dtype.itemsize


def tree_size(tree) -> int:
    return sum(map(size, jax.tree.leaves(tree)))


def _size(aval) -> int:
    return size(aval) if hasattr(aval, "shape") and not jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended) else 0


def _flatten(jaxpr) -> _Program:
    ops, sizes = [], []

    def new(aval):
        sizes.append(_size(aval))
        return len(sizes) - 1

    def walk(jaxpr, names):
        """Append the operations of `jaxpr`, whose inputs have the numbers in `names`; returns its results' numbers."""
        names |= {v: new(v.aval) for v in jaxpr.constvars}
        number = lambda v: None if isinstance(v, Literal) else names[v]
        for eqn in jaxpr.eqns:
            ins, body = [number(v) for v in eqn.invars], _called(eqn)
            if body is None:
                outs = [new(v.aval) for v in eqn.outvars]
                ops.append(_Op(eqn.primitive.name, eqn, ins, outs))
            else:
                given = [new(v.aval) if i is None else i for i, v in zip(ins, eqn.invars)]
                outs = walk(body, dict(zip(body.invars, given)))
                outs = [new(v.aval) if i is None else i for i, v in zip(outs, eqn.outvars)]
            names |= dict(zip(eqn.outvars, outs))
        return [number(v) for v in jaxpr.outvars]

    inputs = [new(v.aval) for v in jaxpr.invars]
    results = walk(jaxpr, dict(zip(jaxpr.invars, inputs)))
    return _Program(ops, sizes, inputs, [r for r in results if r is not None])


def _called(eqn):
    """The jaxpr of an equation that only calls it (jit, remat, custom derivatives), else None."""
    if eqn.primitive.name in WHOLE:
        return None
    bodies = [getattr(value, "jaxpr", value) for value in eqn.params.values()]
    fits = [b for b in bodies if hasattr(b, "eqns") and len(b.invars) == len(eqn.invars)]
    return fits[0] if fits else None


def _needed(program: _Program) -> set:
    """The values that something reads from memory whole."""
    needed = set(program.results)
    for op in reversed(program.ops):
        if op.name in WHOLE or (op.name in VIEWS and op.outs[0] in needed):
            needed.update(op.ins)
    return needed


def _trace(program: _Program, owned: set, needed: set):
    """Per operation (buffers it makes, buffers it reads), and each buffer's last reader."""
    buffers = {i: {i} & owned for i in program.inputs}  # value -> what it is read from
    of = lambda i: buffers.get(i, set())
    made, read, last = [], [], {}
    for at, op in enumerate(program.ops):
        reads = set().union(*map(of, op.ins))
        makes = op.name in WHOLE or op.name.startswith(("reduce_", "arg"))
        for out in op.outs:
            if op.name in VIEWS | IN_PLACE:
                buffers[out] = of(op.ins[0])
            else:
                buffers[out] = {out} if makes or out in needed else reads
        made.append({out for out in op.outs if buffers[out] == {out}})
        read.append(reads)
        last |= dict.fromkeys(reads | made[-1], at)
    for out in program.results:
        last |= dict.fromkeys(of(out), len(program.ops))
    return made, read, last, buffers


def _measure(jaxpr, sliced=(), donated=()) -> Cost:
    """The cost of a jaxpr. Inputs numbered in `sliced` are cut out for it, those in `donated` are its to overwrite."""
    program = _flatten(jaxpr)
    needed, sizes = _needed(program), program.sizes
    owned = {program.inputs[i] for i in donated} | {program.inputs[i] for i in sliced} & needed
    made, read, last, buffers = _trace(program, owned, needed)
    alive, now = set(owned), sum(sizes[b] for b in owned)
    most, flops = now, 0.0
    for at, op in enumerate(program.ops):
        inner = _inside(op)
        dying = {b for b in read[at] & alive if last[b] == at}
        again = _overwritten(op, dying, made[at], buffers, sizes)
        alive = (alive - again) | made[at]
        now += sum(sizes[b] for b in made[at]) - sum(sizes[b] for b in again)
        most, flops = max(most, now + inner.bytes), flops + inner.flops
        over = {b for b in (dying | made[at]) & alive if last[b] == at}
        alive -= over
        now -= sum(sizes[b] for b in over)
    return Cost(flops, most)


def _overwritten(op, dying, made, buffers, sizes) -> set:
    """The dying operands whose memory an operation's results take over."""
    if op.name == "scan":
        return dying & set().union(*(buffers.get(op.ins[k], set()) for k in _carried(op.eqn.params)))
    if op.name in WHOLE:
        return set()
    wanted, taken = [sizes[b] for b in made], set()
    for b in dying:
        if sizes[b] in wanted:
            wanted.remove(sizes[b])
            taken.add(b)
    return taken


def _carried(params) -> range:
    """Which operands of a scan its turns hand on."""
    if "ft_in" in params:  # JAX 0.12
        consts, carry = (len(list(part)) for part in params["ft_in"].unpack()[:2])
    else:
        consts, carry = params["num_consts"], params["num_carry"]
    return range(consts, consts + carry)


def _inside(op) -> Cost:
    """What an operation costs beside its operands and results."""
    params = op.eqn.params
    if op.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        depth = math.prod(op.eqn.invars[0].aval.shape[i] for i in contracted)
        return Cost(2.0 * depth * math.prod(op.eqn.outvars[0].aval.shape), 0)
    if op.name == "scan":
        body, carried = params["jaxpr"].jaxpr, _carried(params)
        turn = _measure(body, range(carried.stop, len(body.invars)), carried)
        own = sum(_size(body.invars[i].aval) for i in carried)
        return Cost(turn.flops * params["length"], turn.bytes - own)
    if op.name == "cond":
        sides = [_measure(branch.jaxpr) for branch in params["branches"]]
        return Cost(max(s.flops for s in sides), max(s.bytes for s in sides))
    if op.name == "while":
        return _measure(params["body_jaxpr"].jaxpr)
    return Cost(0.0, 0)
