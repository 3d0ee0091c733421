"""Nothing of size batch x vocabulary is in the compiled training programs: Qwen3-4B's shape, nothing allocated."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax.envs import maze
from welfare_jax.models import decoder, lora
from welfare_jax.models.layers import Lora
from welfare_jax.models.spec import small
from welfare_jax.rl import rollout
from welfare_jax.text import pieces as text
from welfare_jax.train import state, step
from welfare_jax.train.settings import MazeTraining

VOCAB, TURNS = 151_936, 15
SHAPE = dict(layers=36, width=2560, heads=32, kv_heads=8, head_dim=128, mlp=9728)


def abstract(episodes: int, vocab: int = VOCAB):
    """(compiled update of one gradient pass over `episodes` episodes, tokens a row), from shapes alone."""
    cfg = MazeTraining(group_size=episodes, micro_batch=episodes)
    pieces = text.stand_in()
    shape = jax.ShapeDtypeStruct
    params = decoder.structure(small(vocab, **SHAPE), Lora(32, 64.0), "bfloat16")
    graphdef, flat = (
        params[0],
        {
            jax.tree_util.keystr(p, simple=True, separator="/"): leaf
            for p, leaf in jax.tree.leaves_with_path(params[1])
        },
    )
    trainable = {k: v for k, v in flat.items() if re.fullmatch(lora.PATTERN, k)}
    frozen = {k: v for k, v in flat.items() if k not in trainable}
    tx, T = state.optimizer(cfg), pieces.slots(TURNS)
    now = state.State(shape((), jnp.int32), trainable, jax.eval_shape(tx.init, trainable))
    turn = lambda *more, kind=jnp.int32: shape((episodes, TURNS, *more), kind)
    real = turn(kind=jnp.float32)
    played = rollout.Trajectory(
        shape((episodes, T), jnp.int32), shape((episodes, T), bool), turn(), turn(), turn(4, kind=jnp.float32),
        turn(4), real, turn(), turn(), turn(), turn(), turn(), turn(2), turn(4),
    )  # fmt: skip
    update = jax.jit(
        step.make_update(graphdef, pieces, tx, cfg, maze.Params(turns=TURNS), dtype=jnp.bfloat16), donate_argnums=0
    )
    return update.lower(now, frozen, None, played, 0.7).compile(), T


@pytest.mark.slow
def test_the_vocabulary_meets_no_token():
    """Wherever the vocabulary is an axis, the other one is the width: the embedding, and no logits of any position."""
    program, T = abstract(2)
    shapes = {tuple(map(int, s.split(","))) for s in re.findall(r"\w+\[([\d,]+)\]", program.as_text())}
    assert {s for s in shapes if VOCAB in s} == {(VOCAB, SHAPE["width"])}
    assert any(np.prod(s) >= 2 * T * SHAPE["width"] for s in shapes)  # the program does hold the whole batch


def main():
    """Temporary memory of the compiled update as the batch grows, with the vocabulary and with a hundredth of it."""
    for vocab in (VOCAB, VOCAB // 100):
        one, three = (abstract(n, vocab)[0].memory_analysis().temp_size_in_bytes for n in (1, 3))
        print(f"vocabulary {vocab}: {one / 1e9:.2f} GB for one episode, {(three - one) / 2e6:.1f} MB for each more")


if __name__ == "__main__":
    main()
