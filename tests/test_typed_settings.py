"""Typed settings: refused by the name under which they are typed, hashable, the same values as in the config."""

import dataclasses

import pytest

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.evals.evaluations import EVALUATIONS, asked
from welfare_jax.evals.settings import Evals, JudgeSettings
from welfare_jax.interp.axes.settings import AxesSettings
from welfare_jax.interp.extract import Extraction
from welfare_jax.settings import Distributed, Mesh, Model, Renting, changed, defaults, setting, tree, typed
from welfare_jax.sft.corpus import Mixture
from welfare_jax.train import settings as train
from welfare_jax.train.job import Job

MAIN = {
    "train": train.MazeTraining, "organisms": train.Organisms, "sft": train.Planned, "curve": train.Curve,
    "extract": Extraction, "axes": AxesSettings, "evals": Evals, "evals.judge": JudgeSettings, "model": Model,
    "mesh": Mesh, "distributed": Distributed,
}  # fmt: skip


def changes(at: str, value):
    c = config.rl()
    c.update_from_flattened_dict({at: value})
    return c


@pytest.mark.parametrize("at", MAIN)
def test_values_are_those_of_the_config(at):
    found = typed(MAIN[at], config.rl(), at)
    section = config.rl().to_dict()
    for name in at.split("."):
        section = section[name]
    assert dataclasses.asdict(found).items() <= section.items() and found == typed(MAIN[at], config.rl(), at)
    assert hash(found) == hash(typed(MAIN[at], config.rl(), at))  # may be a static argument


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("train.steps", 0), ("train.groups", 0), ("train.group_size", 0), ("train.micro_batch", 0),
        ("train.epochs", 0), ("train.minibatches", 0), ("train.checkpoint_every", 0), ("train.lr", 0.0),
        ("train.optimizer", "adamww"), ("train.schedule", "step"), ("train.entropy", "some"), ("train.kl", "k4"),
        ("train.kl_in", "rewards"), ("train.remat_keeps", "everything"), ("train.algorithm", "dr_gpro"),
        ("train.trainable", "("), ("train.lora.targets", "("), ("train.intervene.op", "sub"),
        ("train.intervene.when", "never"), ("organisms.tiles", ((0, 0, 1),)), ("curve.per_length", 0),
        ("extract.per_length", 0), ("extract.batch", 0), ("extract.replicates", 0), ("extract.permutations", 0),
        ("extract.held_out", 1.0), ("extract.held_out", 0.0), ("axes.kinds", "moods"), ("evals.names", ("mood",)),
        ("evals.batch", 0), ("evals.buckets", 0), ("evals.random", -1), ("evals.judge.kind", "person"),
        ("distributed.coordinator", "localhost"), ("parallel", "vmap"), ("price", -1.0), ("efficiency", 0.0),
    ],
)  # fmt: skip
def test_an_error_names_the_setting_as_it_is_typed(at, value):
    """At the beginning of its line, and nothing else comes before it."""
    c = changes(at, value)
    with pytest.raises(InputError) as error:
        Job.of(c)
        for section in ("axes", "evals", "evals.judge", "distributed"):
            typed(MAIN[section], c, section)
    said = str(error.value)
    assert "\n" not in said and said.startswith((f"{at}=", f"{at}: "))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("refusal", {"samples": 0}, "evals.refusal.samples=0: "),
        ("confidence", {"grade": "nobody"}, "evals.confidence.grade='nobody': "),
        ("confidence", {"max_new_tokens": 0}, "evals.confidence.max_new_tokens=0: "),
        ("temporal", {"variants": 5}, "evals.temporal.variants=5, evals.temporal.lengths="),
        ("temporal", {"rules": {"level": 2.0}}, "evals.temporal.rules.level=2.0: "),
    ],
)
def test_so_does_one_of_an_evaluation(name, values, said):
    c = config.rl().evals
    c[name].update(values)
    with pytest.raises(InputError) as error:
        asked(c, name)
    assert str(error.value).startswith(said)
    assert asked(config.rl().evals, name) == EVALUATIONS[name].settings


def test_two_names_in_one_line_are_both_whole():
    with pytest.raises(InputError, match=r"^train.micro_batch=3: must divide train.batch=16$"):
        typed(train.Supervised, config.fitting(batch=16, micro_batch=3), "train")
    with pytest.raises(InputError, match=r"^micro_batch=3: must divide batch=16$"):  # typed by a caller
        train.Supervised(batch=16, micro_batch=3)
    c = changes("organisms.seed", (0, 1))
    c.organisms.lr = (1.0,)
    with pytest.raises(InputError, match=r"^organisms.seed=\(0, 1\), organisms.lr=\(1.0,\): lists of different"):
        Job.of(c)


def test_what_is_read_of_a_pretraining():
    found = Mixture.of(config.pretrain())
    assert {*found.sources} == {"words", "function", "script"} and found.spans[0][0] == found.steps == 400
    c = config.pretrain()
    c.tokenizer.kind = "wrods"
    with pytest.raises(InputError, match=r"^tokenizer.kind='wrods': choose one of words, bpe$"):
        Mixture.of(c)


def test_a_job_with_other_settings_is_another_job():
    job = Job.of(config.rl())
    other = job.changed({"train.rollout_batch": 4, "topology": "1xH100"})
    assert (other.train.rollout_batch, other.renting.topology, other.whole["train"]["rollout_batch"]) == (
        4,
        "1xH100",
        4,
    )
    assert job.train.rollout_batch == 0 == job.whole["train"]["rollout_batch"] and job.renting == Renting()


@dataclasses.dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = setting(Inner(), "a section")
    names: tuple[str, ...] = setting(("a",), "a list")
    count: int = 3


def test_a_tree_is_made_of_a_dataclass():
    plain = defaults(tree(Outer))
    assert plain == {"inner": {"share": 0.5}, "names": ("a",), "count": 3}
    assert tree(Outer)["inner"].meaning == "a section" and tree(Outer)["count"].meaning == ""
    assert typed(Outer, plain | {"names": ["a", "b"]}) == Outer(names=("a", "b"))
    assert typed(Outer, plain, count=4).count == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cuont": 1}, "^cuont: there is no such setting; there are inner, names, count$"),
        ({"count": "many"}, "^count='many': must be like 3$"),
        ({"count": 1.5}, "^count=1.5: "),
        ({"inner": {"share": "x"}}, "^inner.share='x': "),
        ({"inner": {"shr": 1}}, "^inner.shr: "),
    ],
)
def test_a_callers_settings_are_known_and_of_their_kind(given, said):
    plain = defaults(tree(Outer))
    with pytest.raises(InputError, match=said):
        changed(plain, given)
    assert changed(plain, {"inner": {"share": 1}}) == plain | {"inner": {"share": 1.0}}
