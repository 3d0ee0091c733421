"""Collectives read off programs: against a program by hand, and against what a compiled one must send."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from welfare_jax.planning import collectives
from welfare_jax.planning.collectives import Collective

BY_HAND = """HloModule jit_f, entry_computation_layout={()->f32[8]{0}}

%sum (a: bf16[], b: bf16[]) -> bf16[] {
  ROOT %add.1 = bf16[] add(%a, %b)
}

%long (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(36)
  %p = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%open (p: (s32[], f32[8])) -> pred[] {
  ROOT %done = pred[] custom-call(%p)
}

%fused (x: bf16[4,2]) -> bf16[4,2] {
  %x = bf16[4,2]{1,0} parameter(0)
  ROOT %all-reduce.1 = bf16[4,2]{1,0:T(8,128)(2,1)S(1)} all-reduce(%x), replica_groups={}, to_apply=%sum
}

%little (x: f32[8]) -> f32[8] {
  ROOT %same = f32[8]{0} copy(%x)
}

%much (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %all-to-all = f32[8]{0} all-to-all(%x), dimensions={0}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = bf16[4,2]{1,0} convert(%p)
  %fusion = bf16[4,2]{1,0} fusion(%x), kind=kCustom, calls=%fused
  %y = f32[8]{0} get-tuple-element(%p), index=1
  %choice = f32[8]{0} conditional(%i, %y, %y), branch_computations={%little, %much}
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %choice)
}

%outer (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %inner = (s32[], f32[8]{0}) while(%p), condition=%long, body=%body
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %known = (s32[], /*index=1*/f32[8]{0}) while(%t), condition=%open, body=%outer, backend_config={"known_trip_count":{"n":"4"}}
  %unknown = (s32[], f32[8]{0}) while(%known), condition=%open, body=%body
  %all-gather-start = (f32[8]{0}, f32[64]{0}) all-gather-start(%a), dimensions={0}
  %all-gather-done = f32[64]{0} all-gather-done(%all-gather-start)
  ROOT %small = f32[1]{0} reduce-scatter(%a), dimensions={0}, to_apply=%sum
}
"""  # noqa: E501


def test_a_program_by_hand():
    """Loops multiply, by the compiler's note or the condition; a branch counts as its dearer side."""
    found = collectives.of(BY_HAND)
    assert found == [
        Collective("all-reduce", "bf16", 16, 4 * 36, 2, True),
        Collective("all-to-all", "f32", 32, 4 * 36, 2, True),
        Collective("all-reduce", "bf16", 16, 1, 1, False),
        Collective("all-to-all", "f32", 32, 1, 1, False),
        Collective("all-gather", "f32", 256, 1, 0, True),
        Collective("reduce-scatter", "f32", 32, 1, 0, True),
    ]
    assert collectives.total(found) == 145 * (16 + 32) + 256 + 32
    rows = collectives.table(found)
    assert rows[0] == {
        "kind": "all-to-all", "dtype": "f32", "in_loops": True, "count": 2, "runs": 145, "bytes": 145 * 32,
        "counted": False,
    }  # fmt: skip
    assert [row["kind"] for row in rows] == ["all-to-all", "all-reduce", "all-gather", "reduce-scatter"]


@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 (virtual) devices")
def test_what_xla_compiles_for_eight_devices():
    """A product over dealt rows in a loop: its gradient is summed over the devices in every turn."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def f(w, x):
        grad = jax.grad(lambda w, x: jnp.square(jnp.tanh(x @ w)).sum())
        return jax.lax.scan(lambda total, part: (total + grad(w, part), None), jnp.zeros_like(w), x)[0]

    w = jax.device_put(jnp.ones((16, 24)), NamedSharding(mesh, P()))
    x = jax.device_put(jnp.ones((5, 32, 16)), NamedSharding(mesh, P(None, "data")))
    (one,) = collectives.of(jax.jit(f).lower(w, x).compile().as_text())
    assert one == Collective("all-reduce", "f32", 16 * 24 * 4, 5, 1, True)
