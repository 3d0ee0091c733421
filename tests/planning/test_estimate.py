"""The plan against what a run really allocates, on one device and on eight."""

import json
import math
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import hf_model, save

from welfare_jax import config, main
from welfare_jax import mesh as mesh_lib
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf
from welfare_jax.planning import devices, estimate
from welfare_jax.rl import rollout
from welfare_jax.train import loop, state
from welfare_jax.train.job import Job

FULL = {"train.lora.rank": 0, "train.trainable": ".*"}


def settings(**changes):
    c = config.rl()
    c.model.update(path="tiny", dtype="float32")
    c.maze.update(size=31, turns=5)
    c.train.update(groups=4, group_size=8, micro_batch=16)
    c.train.lora.rank = 4
    c.update_from_flattened_dict(changes)
    return c


def job(**changes):
    return Job.of(settings(**changes))


def paper(name="main", **changes):
    c = runpy.run_path("configs/paper.py")["get_config"](name)
    c.update_from_flattened_dict(changes)
    return c


def allocated(*trees) -> int:
    """Bytes of these arrays on the first device, each buffer once."""
    shards = [s.data for leaf in jax.tree.leaves(trees) for s in leaf.addressable_shards[:1]]
    return sum({s.unsafe_buffer_pointer(): s.nbytes for s in shards}.values())


def only(monkeypatch, axes):
    """As if there were no more devices than a mesh of this shape needs."""
    real, count = jax.make_mesh, int(np.prod(axes))
    monkeypatch.setattr(jax, "device_count", lambda: count)
    monkeypatch.setattr(jax, "make_mesh", lambda *args, **kw: real(*args, devices=jax.devices()[:count], **kw))


needs_devices = pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 (virtual) devices")


ORGANISMS = {"organisms.seed": [0, 1, 2]}
WIDE = FULL | {"model.dtype": "bfloat16"}


@needs_devices
@pytest.mark.parametrize(
    ("axes", "changes"),
    [
        ((1, 1, 1), {}), ((1, 1, 1), FULL), ((1, 1, 1), WIDE), ((1, 1, 1), ORGANISMS), ((8, 1, 1), {}),
        ((2, 2, 2), {}), ((2, 2, 2), WIDE), ((1, 8, 1), WIDE),
    ],
)  # fmt: skip
def test_parameters_and_optimiser_are_what_a_run_allocates(axes, changes, monkeypatch):
    """Everything that is alive between two steps, to one per cent."""
    only(monkeypatch, axes)
    c = job(**dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), axes)), **changes)
    setup = loop.build(c)
    own = loop.runs(setup, c)
    now, _ = loop.fresh(own, state.optimizer(c.train), setup.mesh)
    mesh = mesh_lib.imagined(int(np.prod(axes)), *axes)
    weights, trained, optimiser = estimate.resident(setup.lm.spec, c, mesh)
    assert allocated(setup.lm.params, setup.frozen) == pytest.approx(weights, rel=0.01)
    assert allocated(now.opt_state) == pytest.approx(optimiser, rel=0.01)
    assert allocated(setup.lm.params, setup.frozen, own.initial, now) == pytest.approx(
        weights + trained + optimiser, rel=0.01
    )


@needs_devices
@pytest.mark.parametrize("axes", [(1, 1, 1), (4, 2, 1)], ids=str)
def test_the_cache_is_what_a_rollout_allocates(axes, monkeypatch):
    """The player's own two caches, of the last turn and of those before, where the compiler put them."""
    only(monkeypatch, axes)
    mesh = mesh_lib.make(*axes)
    c = job(**{"mesh.data": axes[0], "mesh.fsdp": axes[1]})
    lm, known = hf.load("tiny"), estimate.source(c)
    spec, own = estimate.local(known.spec, c, mesh)
    _, planned_cache, _ = estimate.rollout(spec, known.pieces, own)
    rows, (first, later) = c.train.groups * c.train.group_size, known.pieces.widths()
    turns = c.maze.turns

    @jax.jit
    def turn(params, opening, tokens):
        policy = rollout.from_model(decoder.bind(lm.graphdef, params), jnp.arange(4))
        read = lambda carry, a: policy.act(carry, a, jnp.ones(a.shape, bool), None)[0]
        return read(policy.grow(read(None, opening), turns - 1, later), tokens)

    opening, tokens = (
        jax.device_put(np.ones((rows, width), np.int32), mesh_lib.rows(mesh)) for width in (first, later)
    )
    memory = turn(jax.device_put(lm.params, mesh_lib.replicated(mesh)), opening, tokens)
    caches = (*memory.done, memory.filling, memory.last)
    leaves = [leaf for cache in caches for leaf in (cache.k, cache.v, cache.pos)]
    assert allocated(*leaves, caches[0].count) == pytest.approx(planned_cache, rel=0.01)


@pytest.fixture(scope="module")
def main_run():
    """(settings, source) of the paper's main run, whose costs are found once."""
    c = Job.of(paper())
    return c, estimate.source(c)


def test_flops_are_those_of_the_closed_form(main_run):
    """Rollout and update of Qwen3-4B: weights once a token forward; three times where activations are recomputed.

    The first turn counts once for a maze in the rollout, once for the episodes of a pass in the update.
    """
    c, known = main_run
    found = estimate.make(c, "1xH200", known)
    first, later = known.pieces.widths()
    tokens = 512 * (c.maze.turns - 1) * later
    forward, updated = ((tokens + rows * first) * known.spec.flops_per_token(0) for rows in (8, 512 / 32))
    assert known.note and 1.0 < found.flops[0] / forward < 1.1
    assert 3.0 < found.flops[1] / updated < 3.2
    assert found.seconds[0] == pytest.approx(found.flops[0] / 989e12)


def test_the_papers_run_does_not_fit_one_h100_as_it_is(main_run):
    """By the cache of its 512 episodes: 2 x 36 layers x 8 heads x 128 numbers of two bytes a slot."""
    c, known = main_run
    whole = estimate.make(c, "1xH100", known)
    assert (
        whole.cache == pytest.approx(2 * 36 * 8 * 128 * 2 * 512 * known.pieces.slots(15), rel=0.01) and not whole.fits
    )
    changes, found = estimate.fitted(c, "1xH100", known)
    assert found.fits and set(changes) == {"train.rollout_batch"}
    assert estimate.fitted(c, "1xH200", known)[0] == {}


@pytest.mark.parametrize(("machine", "temporary"), [("1xH100", 38.87e9), ("v6e-8", 18.07e9), ("v5e-32", 4.72e9)])
def test_the_rollout_holds_what_the_compilers_say(main_run, machine, temporary):
    """To 5 %, of temporaries by XLA:GPU and XLA:TPU, which makes room for the cache twice (docs/benchmarks.md)."""
    c = main_run[0].changed({"train.rollout_batch": 256} if machine == "1xH100" else {})
    assert estimate.make(c, machine, main_run[1]).rollout == pytest.approx(temporary, rel=0.05)


@pytest.fixture(scope="module")
def small_run():
    c = job()
    return c, estimate.source(c)


def test_one_device_of_eight_does_an_eighth(small_run):
    one, eight = (estimate.make(small_run[0], name, small_run[1]) for name in ("1xH200", "8xH200"))
    assert eight.weights == one.weights and eight.axes == (8, 1, 1)
    assert eight.cache * 8 == pytest.approx(one.cache, rel=0.01)
    cfg, (first, later) = small_run[0].train, small_run[1].pieces.widths()

    def slots(together):
        """Of an episode, where so many of a maze share its first turn."""
        return (small_run[0].maze.turns - 1) * later + first / math.gcd(cfg.group_size, together)

    episodes = cfg.groups * cfg.group_size
    for a, b, together in zip(one.flops, eight.flops, (episodes, cfg.micro_batch)):
        assert a / b == pytest.approx(8 * slots(together) / slots(together // 8), rel=0.02)


@pytest.mark.parametrize(
    ("changes", "short", "wanted"),
    [
        ({"train.micro_batch": 1}, "rollout", {"train.rollout_batch"}),
        ({"train.micro_batch": 1, "train.merge_lora": True}, "merged", {"train.merge_lora"}),
        ({"train.remat": False, "train.rollout_batch": 1}, "update", {"train.remat"}),
        ({"train.rollout_batch": 1}, "update", {"train.micro_batch"}),
        ({"train.rollout_batch": 8, "train.micro_batch": 8}, "resident", {"mesh.data", "mesh.fsdp"}),
    ],
)
def test_what_to_change(changes, short, wanted, small_run, monkeypatch):
    """On eight chips, or one, whose memory is just too small for one thing."""
    c, name = small_run[0].changed(changes), "8xtoy" if short == "resident" else "1xtoy"
    monkeypatch.setitem(devices.CHIPS, "toy", devices.CHIPS["H100"])
    found = estimate.make(c, name, small_run[1])
    assert found.fits
    need = 1.95 * found.resident if short == "resident" else found.most * (0.999 if short == "merged" else 0.95)
    monkeypatch.setitem(devices.CHIPS, "toy", devices.CHIPS["H100"]._replace(memory=need / estimate.USABLE))
    changes, better = estimate.fitted(c, name, small_run[1])
    assert better.fits and set(changes) == wanted
    fits = c.changed(changes)
    loop.check_batch(fits.train, fits.sft, mesh_lib.imagined(devices.topology(name)[1], *better.axes))


def test_nothing_makes_it_fit(small_run, monkeypatch):
    monkeypatch.setitem(devices.CHIPS, "toy", devices.CHIPS["H100"]._replace(memory=1e6))
    c = small_run[0].changed({"topology": "1xtoy", "train.rollout_batch": 1, "train.micro_batch": 2})
    monkeypatch.setattr(estimate, "source", lambda c: small_run[1])
    said = list(estimate.lines(c))[-1]
    assert "No setting makes it fit" in said and "more devices" in said


class Fake:
    """A device that is not here."""

    def __init__(self, kind, limit=None, platform="gpu"):
        self.device_kind, self.platform, self.limit = kind, platform, limit

    def memory_stats(self):
        return None if self.limit is None else {"bytes_limit": self.limit}


def present(monkeypatch, *found):
    monkeypatch.setattr(jax, "local_devices", lambda: list(found))
    monkeypatch.setattr(jax, "device_count", lambda: len(found))


def test_what_does_not_fit_here_is_refused_or_fitted(small_run, monkeypatch, capsys):
    c = small_run[0].changed({"train.micro_batch": 1})
    monkeypatch.setattr(estimate, "source", lambda c: small_run[1])
    assert estimate.ready(c) is c  # a CPU is not asked
    present(monkeypatch, Fake("NVIDIA H100 80GB HBM3"))
    assert estimate.ready(c) is c
    most = estimate.make(c, "1xH100", small_run[1]).most
    present(monkeypatch, Fake("NVIDIA H100 80GB HBM3", 0.95 * most * devices.CLAIMED / estimate.USABLE))
    with pytest.raises(InputError, match="fits with --config.train.rollout_batch=16, which --config.fit=True sets"):
        estimate.ready(c)
    sure = c.changed({"confirm": True})
    assert estimate.ready(sure) is sure
    found = estimate.ready(c.changed({"fit": True}))
    assert found.train.rollout_batch == 16 and "fitted to" in capsys.readouterr().out
    assert found.train.groups == c.train.groups and c.train.rollout_batch == 0
    present(monkeypatch, Fake("NVIDIA H100 80GB HBM3", 1e6))
    with pytest.raises(InputError, match="no setting makes it fit"):
        estimate.ready(c.changed({"fit": True}))


def test_a_run_asks_before_it_loads(small_run, monkeypatch, tmp_path):
    from welfare_jax.experiments.axis import run

    monkeypatch.setattr(estimate, "source", lambda c: small_run[1])
    monkeypatch.setattr(loop, "build", lambda c: pytest.fail("loaded a model that does not fit"))
    present(monkeypatch, Fake("TPU v5 lite", 1e7, "tpu"))
    with pytest.raises(InputError, match="of each device here, which has 0.01;"):
        run.run(settings(), tmp_path)


def call(monkeypatch, capsys, c):
    monkeypatch.setattr(main, "parse", lambda argv: (c, None))
    monkeypatch.setattr(main.runtime, "keep_heap", lambda: None)
    status = main.main(["main"])
    return status, capsys.readouterr()


def test_the_command(monkeypatch, capsys, main_run, small_run):
    monkeypatch.setattr(estimate, "source", lambda c: main_run[1])
    status, said = call(monkeypatch, capsys, paper(plan="True", topology="1xH100"))
    assert status == 0 and not said.err
    for words in ("4,088,528,384 parameters, 66,060,288 trained", "does not fit", "--config.train.rollout_batch=256"):
        assert words in said.out
    monkeypatch.setattr(estimate, "source", lambda c: small_run[1])
    monkeypatch.setattr(devices, "COMMON", ("1xH100", "v5e-8", "v6e-256"))
    status, said = call(monkeypatch, capsys, settings(plan="True"))
    lines = said.out.splitlines()[2:5]
    assert status == 0 and [line.split()[0] for line in lines] == list(devices.COMMON)
    hours = said.out.splitlines()[-3:]
    assert [line.split(":")[0] for line in hours] == list(devices.COMMON) and "seconds at least" in hours[0]
    assert "fits" in lines[0] and "fits" in lines[1] and "train.micro_batch=16" in lines[2]


def test_the_command_needs_no_folder():
    flags = ["--config=configs/tiny.py", "--config.plan=True", "--config.topology=8xH100"]
    done = subprocess.run([sys.executable, "-m", "welfare_jax.main", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "8xH100, mesh 8 x 1 x 1" in done.stdout and ": fits" in done.stdout


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"topology": "9xH100x"}, "9xH100x"),
        ({"model.path": "nobody/nothing"}, "nobody/nothing"),
        ({"topology": "v6e-64"}, "train.micro_batch=16"),
        ({"price": -1.0}, "price=-1.0"),
        ({"train.steps": 0}, "train.steps=0"),
    ],
)
def test_bad_plans_end_in_one_line(changes, said, monkeypatch, capsys):
    status, out = call(monkeypatch, capsys, settings(plan="True", **changes))
    assert status == 2 and said in out.err and len(out.err.splitlines()) == 1 and "Traceback" not in out.err


def test_a_folder_of_ones_own_needs_no_weights(tmp_path, tiny_tokenizer_dir, tiny_tokenizer):
    """config.json and a tokenizer are enough."""
    model = save(hf_model("gemma3", vocab_size=len(tiny_tokenizer)), tmp_path / "model", tiny_tokenizer_dir)
    c = job(**{"model.path": str(model)})
    want = hf.load_params(model)[2], loop.tables(c, model).width
    for path in model.glob("*.safetensors"):
        path.unlink()
    found = estimate.source(c)
    assert (found.spec, found.pieces.width) == want and not found.note
    for path in (*model.glob("tokenizer*"), *model.glob("*.jinja")):
        path.unlink()
    assert "Qwen3" in estimate.source(c).note
    (model / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(InputError, match="mamba"):
        estimate.source(c)


@pytest.mark.parametrize(
    "changes", [{"train.algorithm": "sft"}, {"train.algorithm": "ppo", "train.kl_coef": 0.1}, FULL]
)
def test_other_algorithms_can_be_planned(changes, small_run):
    c = small_run[0].changed(changes | {"sft.batch": 16})
    found = estimate.make(c, "8xH100", small_run[1])
    assert found.fits and min(found.flops) > 1e6 and found.update > found.trained / 2


def documented():
    """(what docs/plans.py gives, the cells of the table in the guide by machine)."""
    made = runpy.run_path("docs/plans.py")
    text = made["PAGE"].read_text().split(made["BEGIN"])[1].split(made["END"])[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    return made, {row[0]: row[1:] for row in rows[2:]}


def test_the_guides_table_agrees_with_the_plan(main_run):
    """One column where its programs are known already; the rest by the slow test."""
    made, rows = documented()
    assert list(rows) == list(made["MACHINES"]) and all(len(row) == len(made["MODELS"]) for row in rows.values())
    c, known = main_run
    for machine in ("1xH100", "1xH200"):
        assert rows[machine][0] == made["cell"](c, known, machine)


@pytest.mark.slow
@pytest.mark.parametrize("column", range(6))
def test_the_whole_table_agrees_with_the_plan(column):
    made, rows = documented()
    assert len(made["MODELS"]) == 6
    lines = made["table"](made["MODELS"][column : column + 1])
    assert lines[2:] == [f"| {machine} | {row[column]} |" for machine, row in rows.items()]


@pytest.mark.parametrize("name", ["google/gemma-3-27b-it", "Qwen/Qwen3-32B", "openai/gpt-oss-120b"])
def test_large_models_are_planned_without_a_network(name, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("offline"))
    )
    c = Job.of(paper(**{"model.path": name, "mesh.fsdp": 8}))
    known = estimate.source(c)
    weights, trained, optimiser = estimate.resident(known.spec, c, mesh_lib.imagined(8, 0, 8, 1))
    billions = {"google/gemma-3-27b-it": 27.0, "Qwen/Qwen3-32B": 32.8, "openai/gpt-oss-120b": 116.8}[name]
    assert weights * 8 == pytest.approx(billions * 2e9, rel=0.02) and trained and optimiser
