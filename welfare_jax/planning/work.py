"""How long a run would take and what it would cost: its stages as texts read and written, and hours on a machine.

Arithmetic is the closed form of a decoder's products. Writing is bound by memory: every new token of a batch reads all
weights and the cache. Lengths that only a run can know count at their most, so hours are those of answers that all go
on to their last token. Communication, compilation and the host are left out.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp

from welfare_jax.models import decoder, hf
from welfare_jax.models.spec import Spec
from welfare_jax.planning import cost, devices
from welfare_jax.settings import Renting

CHARACTERS = 4  # of a token, where no tokenizer is at hand


class Stage(NamedTuple):
    """A part of a run, over all devices."""

    name: str
    what: str  # in words and numbers
    tokens: float = 0.0
    flops: float = 0.0
    written: float = 0.0  # bytes of weights that writing reads: on every device, whatever its share of the rows
    kept: float = 0.0  # bytes of caches that writing reads: shared among the devices
    seconds: float | None = None  # at least, where they are known better than from the above

    def floor(self, chip: devices.Chip, count: int) -> float:
        """Seconds on `count` chips at their stated rates."""
        if self.seconds is not None:
            return self.seconds
        read = self.written + self.kept / count
        return max(self.flops / count / chip.flops, read / chip.bandwidth)

    def times(self, n: float) -> "Stage":
        seconds = None if self.seconds is None else n * self.seconds
        return Stage(self.name, self.what, *(n * x for x in self[2:6]), seconds)


def total(name: str, what: str, *stages: Stage) -> Stage:
    """Stages as one."""
    return Stage(name, what, *(sum(s[i] for s in stages) for i in range(2, 6)))


class Model(NamedTuple):
    """What the work of a model depends on."""

    spec: Spec
    weights: int  # bytes
    position: int  # bytes of the cache of one token
    tokenizer: object = None  # None where none is at hand

    @classmethod
    def of(cls, spec: Spec, dtype: str, tokenizer=None) -> "Model":
        weights = cost.tree_size(decoder.structure(spec, None, dtype)[1])
        size = 2 * spec.layers * spec.kv_heads * spec.head_dim * jnp.dtype(dtype).itemsize
        return cls(spec, weights, size, tokenizer)

    def length(self, text: str) -> int:
        if self.tokenizer is None:
            return -(-len(text) // CHARACTERS)
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def read(self, rows: float, length: float, passes: float = 1) -> Stage:
        """`rows` texts of `length` tokens through the layers. passes: 3 with a backward pass, 4 where it computes the
        layers again."""
        tokens = rows * length
        return Stage("", "", tokens, passes * tokens * self.spec.flops_per_token(length / 2))

    def write(self, rows: float, prompt: float, new: float, batch: int) -> Stage:
        """`rows` prompts of `prompt` tokens read, and `new` tokens written after each, `batch` rows at a time."""
        flops = prompt * self.spec.flops_per_token(prompt / 2)
        flops += new * self.spec.flops_per_token(prompt + new / 2, head=True)
        batches = math.ceil(rows / max(batch, 1))
        return Stage(
            "", "", rows * (prompt + new), rows * flops, batches * new * self.weights,
            rows * new * (prompt + new / 2) * self.position,
        )  # fmt: skip


@functools.cache
def _opened(path: str, revision: str, attention: str, dtype: str) -> tuple[Model, str]:
    folder = hf.resolve(path, weights=False, revision=revision)
    spec = hf.read_config(folder)[0]
    if hf.has_tokenizer(folder):
        return Model.of(spec, dtype, hf.load_tokenizer(folder)), ""
    return Model.of(spec, dtype), f"no tokenizer at hand: {CHARACTERS} characters count as a token"


def opened(model) -> tuple[Model, str]:
    """(the model of a `config.model`, without weights, what had to be assumed)."""
    return _opened(model["path"], model.get("revision", ""), model.get("attention", "plain"), model["dtype"])


def passes(remat: bool) -> int:
    """Forward passes that an update costs."""
    return 3 + remat


def report(asked: Renting, stages: list[Stage]) -> Iterator[str]:
    """The stages in lines, then hours and cost: of `asked.topology`, or hours of the common machines."""
    for s in stages:
        yield f"{s.name:>24}: {s.what}; {number(s.tokens)} tokens, {s.flops / 1e15:.3g} PFLOP"
    whole = total("", "", *stages)
    yield f"{'in all':>24}: {number(whole.tokens)} tokens, {whole.flops / 1e15:.3g} PFLOP"
    for name in [asked.topology] if asked.topology else devices.COMMON:
        yield hours(asked, stages, name)
    if asked.price and not asked.topology:
        yield "for a price, name the machine that it is of: --config.topology=8xH100"


def hours(asked: Renting, stages: list[Stage], name: str) -> str:
    """How long the stages take on a machine, and what that costs."""
    chip, count = devices.topology(name)
    floor = sum(s.floor(chip, count) for s in stages)
    if math.isnan(floor):
        return f"{name}: its rates are not known, so neither are hours"
    hoped = floor / asked.efficiency
    line = f"{name}: {spell(floor)} at least, {spell(hoped)} at {asked.efficiency:.0%} of its stated rates"
    if asked.price and asked.topology:
        cost = (f"{seconds / 3600 * asked.price:,.2f}" for seconds in (floor, hoped))
        line += f"; at {asked.price:g} an hour it costs " + " to ".join(cost)
    return line


def spell(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} seconds"
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def number(x: float) -> str:
    """A count in three digits: 18.8 million."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if x >= size:
            return f"{x / size:.3g}{word}"
    return f"{x:,.0f}"
