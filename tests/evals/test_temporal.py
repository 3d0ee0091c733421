"""State or read-out: planted models from prompts to verdicts, what is asked of whom, and bad settings in one line."""

import json

import numpy as np
import pytest
import scripted
from ml_collections import ConfigDict
from planted import NAMED, Planted, any_direction, carried, laboratory, only_the_last, push, settings

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.evals import prompts, temporal, temporal_controls, temporal_stats
from welfare_jax.evals.evaluations import asked


def pick(rows, **wanted):
    found = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, found)
    return found[0]


@pytest.mark.parametrize(
    ("state", "want"),
    [
        (only_the_last, ["supported", "not supported", "supported"]),
        (carried, ["supported", "supported", "supported"]),
        (any_direction, ["supported", "not supported", "not supported"]),
    ],
)
def test_planted_models_from_prompts_to_verdicts(state, want, tmp_path, capsys):
    (found,) = temporal.temporal(laboratory(tmp_path, state), settings())
    assert [v["verdict"] for v in found["verdicts"]] == want
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    printed = capsys.readouterr().out
    for claim, verdict in zip(temporal_stats.CLAIMS, want):
        assert f"temporal, untrained model: {claim}: {verdict} ({found['rules'][claim]})" in printed
    ratio = pick(found["ratios"], direction="gold-mold", dose=2.0, metric="words")["ratio"]
    assert ratio == pytest.approx(1.0 if state is carried else 0.0)


def test_effects_by_hand(tmp_path):
    """A dose of two adds twice its push to all answers to how it goes, and nothing to the liking of a letter."""
    (found,) = temporal.temporal(laboratory(tmp_path, carried), settings())
    for name, size in NAMED.items():
        for exposure in temporal.STEERED:
            of = lambda metric, name=name, exposure=exposure: pick(
                found["effects"], direction=name, dose=2.0, exposure=exposure, metric=metric
            )
            for metric in ("words", "codes, first way", "codes, second way", "codes, binding"):
                assert of(metric)["mean"] == pytest.approx(2 * size) and of(metric)["families"] == 64
            assert of("codes, token")["mean"] == pytest.approx(0, abs=1e-9) and of("words")["silent"] == 0
            # odds of 1 or -1, half of the prompts each, change sides where the push outweighs them
            assert of("switch")["mean"] == pytest.approx(0.5 if 2 * abs(size) > 1 else 0.0)
    back = pick(found["effects"], direction="gold-mold", dose=-2.0, exposure="early", metric="words")
    assert back["mean"] == pytest.approx(-2)
    event = {row["metric"]: row["mean"] for row in found["event"]}
    assert (event["words"], event["codes, binding"]) == pytest.approx((2, 2))
    assert event["number"] == pytest.approx(2, abs=0.1)
    assert event["codes, token"] == pytest.approx(0, abs=1e-9)
    positions = {(r["part"], r["token"]): r["effect"] for r in found["map"]}
    assert positions == {
        ("task and event", "<"): 0, ("task and event", "task"): 0, ("first answer", "said"): pytest.approx(2),
        ("filler", ">"): 0, ("question", "why"): 0, ("read-out", "?"): 0,
    }  # fmt: skip
    along = pick(found["along"], exposure="early", site="read-out", layer=3)
    assert along["moved"] == pytest.approx(2 * 2.0)
    assert {r["site"] for r in found["along"] if r["exposure"] == "readout"} == {"read-out"}


def test_controls_are_matched_by_norm_and_by_divergence(tmp_path):
    """Random directions diverge more by half: their strength is lowered until they do not, those of others is kept."""
    (found,) = temporal.temporal(laboratory(tmp_path), settings())
    own = (2.0 * 0.1) ** 1.8
    for row in found["controls"]:
        kind, equal = row["kind"], row["matching"] == "divergence"
        assert row["dose"] == pytest.approx(2 / 1.5 if kind == "random" and equal else 2.0, rel=1e-3)
        assert row["divergence"] == pytest.approx(own * (1 if equal or kind != "random" else 1.5**1.8), rel=1e-3)
        want = row["dose"] * push(row["direction"]) * (row["exposure"] == "readout")
        assert row["effect"] == pytest.approx(want, abs=1e-9)
    assert len(found["controls"]) == 60 * 2 * 2
    for row in found["matching"]:
        assert row["own"] == pytest.approx(own)
    late = pick(found["ranks"], exposure="readout", matching="norm", kind="all")
    assert (late["share"], late["n"]) == (pytest.approx(1 / 61), 60)
    assert pick(found["ranks"], exposure="early", matching="norm", kind="random")["share"] == 1.0  # all move nothing


def test_what_is_not_mastered_is_counted_and_left_out(tmp_path):
    """Letters are not answered at all and digits never follow the supposition: both drop out, words stay."""
    harness = laboratory(tmp_path, carried, silent=("Say",), deaf=("digit",))
    (found,) = temporal.temporal(harness, settings())
    mastered = {row["surface"]: (row["mastered"], row["prompts"], row["families"]) for row in found["counts"]}
    assert mastered == dict(zip(temporal.SURFACES, ((128, 128, 64), (0, 128, 0), (0, 128, 0), (0, 128, 0))))
    for row in found["effects"]:
        words = row["metric"] in ("words", "switch")
        assert (row["mean"] is not None) == words and row["families"] == 64 * words
    assert [v["verdict"] for v in found["verdicts"]] == ["supported"] * 3


def test_a_model_that_masters_nothing_has_no_verdicts(tmp_path):
    harness = laboratory(tmp_path, silent=("going",))
    (found,) = temporal.temporal(harness, settings())
    assert not found["verdicts"] and not found["effects"] and not found["map"] and not found["controls"]
    assert all(row["mastered"] == 0 for row in found["counts"])
    assert {row.cell.where for row in harness.device.asked} == {"none"}  # nothing is steered for nothing


def test_layers_doses_and_models_of_the_grid(tmp_path):
    """Every layer and strength is read; controls, specificity and map at one layer and the largest strength alone."""
    harness = laboratory(tmp_path, alphas=(-2, 0, 1, 2), layers="all", models=("untrained", "trained"), sample=0.2)
    found = temporal.temporal(harness, settings(random=2, orthogonal=1, match_rounds=1))
    assert [record["model"] for record in found] == ["untrained", "trained"]
    for record in found:
        assert (record["layers"], record["doses"], record["layer"], record["dose"]) == ([0, 1, 2, 3], [1, 2], 2, 2)
        claims = [(v["layer"], v["dose"]) for v in record["verdicts"] if v["claim"] == "specificity"]
        assert claims == [(2, 2)]
        for layer in range(4):
            for dose in (-2, -1, 1, 2):
                row = pick(record["effects"], direction="gold-mold", layer=layer, dose=dose, exposure="readout",
                           metric="words")  # fmt: skip
                assert row["mean"] == pytest.approx(dose)
    cohort = {row.cell for row in harness.device.asked if "_" in row.cell.vector}
    assert {cell.layer for cell in cohort} == {2} and {cell.where for cell in cohort} == {"early", "readout"}


def test_a_killed_run_goes_on_and_ends_alike(tmp_path):
    """Nothing is read twice, though strengths of controls follow from what was read before."""

    class Dies(Planted):
        def _yield(self, rows, done, value):
            for batch in super()._yield(rows, done, value):
                if self.calls > self.limit:
                    raise KeyboardInterrupt
                yield batch

    def run(folder, kind, limit=0):
        folder.mkdir(exist_ok=True)
        harness = laboratory(folder, sample=0.3)
        harness.device = kind(carried)
        harness.device.limit = limit
        try:
            return temporal.temporal(harness, settings(random=3, orthogonal=3))
        finally:
            for book in (harness.answers, harness.readouts, harness.judgements):
                book.close()

    whole, found, times = run(tmp_path / "whole", Planted), None, 0
    while found is None and times < 30:
        times += 1
        try:
            found = run(tmp_path / "killed", Dies, limit=8)
        except KeyboardInterrupt:
            continue
    assert found == whole and times > 2
    keys = [json.loads(line)["key"] for line in (tmp_path / "killed" / "readouts.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len((tmp_path / "whole" / "readouts.jsonl").read_text().splitlines())


def test_directions_have_one_norm_and_lie_where_they_should(tmp_path):
    harness = laboratory(tmp_path, vectors=scripted.bank(width=12), sentiment=12)
    bank, welfare = temporal_controls.directions(harness, settings())
    g, m = (harness.bank.directions[f"v_{c}"].values for c in ("gold", "mold"))
    norm, unit = lambda x: np.linalg.norm(x, axis=-1), lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    for d in bank.directions.values():
        np.testing.assert_allclose(norm(d.values), (norm(g) + norm(m)) / 2, rtol=1e-5)
        assert d.layer == 2 and d.beside == welfare == "gold-mold"
    named = {name: unit(d.values) for name, d in bank.directions.items()}
    np.testing.assert_allclose(named[welfare], unit(g - m), atol=1e-5)
    # three classes of equal weight: against the rest, path = -(gold + mold)
    a, b, c = (np.random.default_rng(k).normal(size=5) for k in range(3))
    rest = [x - (a + b + c - x) / 2 for x in (a, b, c)]
    np.testing.assert_allclose(rest[0], -(rest[1] + rest[2]))
    np.testing.assert_allclose(named["path"], unit(-(g + m)), atol=1e-5)
    assert np.abs((named["residual"] * unit(harness.sentiment()[1][0])).sum(-1)).max() < 1e-5
    for k in range(30):
        for name in ("gold", "mold", "path", "residual", welfare):
            assert np.abs((named[f"orthogonal_{k}"] * named[name]).sum(-1)).max() < 1e-4


def test_a_vector_that_is_neither_gold_nor_mold_stands_alone(tmp_path):
    harness = laboratory(tmp_path, vectors=scripted.bank(("success",)))
    bank, welfare = temporal_controls.directions(harness, settings(random=1, orthogonal=0))
    assert list(bank.directions) == ["success", "residual", "random_0"] and welfare == "success"
    assert "success stands for the welfare direction" in harness.notes[0]


def test_families_and_their_prompts():
    """64 families of eight domains; two prompts of each hold one of both outcomes and one of both lengths."""
    items = prompts.load(("temporal",), scripted.TILES, fields=temporal.FAMILY)
    filler = prompts.load(("temporal_filler",), scripted.TILES)
    assert len(items) >= 64 and len({item.category for item in items}) >= 8
    texts = [text for item in items for text in (item.prompt, *item.more)]
    assert len(set(texts)) == len(texts) and all(len(text.split()) <= 12 for text in texts)
    for n in (1, 2, 3, 4):
        given = temporal.conversations(settings(variants=n), items, filler)
        assert len({p.id for p in given}) == len(given) == n * len(items)
        kinds = [[(p.outcome, p.length) for p in given if p.family == i] for i in range(len(items))]
        if n == 2:
            assert all({x for x, _ in k} == {"well", "badly"} and {x for _, x in k} == {1, 3} for k in kinds)
        if n == 1:
            assert len({k[0] for k in kinds[:4]}) == 4
    for p in given:
        roles = [role for role, _ in p.talk]
        assert roles == ["user", "assistant"] * (1 + p.length) and all(text.strip() for _, text in p.talk)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": 5}, "evals.temporal.variants=5"),
        ({"lengths": (1,)}, "lengths=.1."),
        ({"codes": ("J",)}, "evals.temporal.codes"),
        ({"begin": ()}, "begin: need two texts, two, and three"),
        ({"codes": ("Jot", "V")}, "codes Jot: none of Jot is one token"),
        ({"bad": ("well",)}, "stands for good and bad"),
        ({"controls_at": ("late",)}, "evals.temporal.controls_at='late'"),
        ({"rules": {"persists": 0.0}}, "rules.persists=0.0"),
        ({"rules": {"larger": 1.5}}, "rules.larger=1.5"),
        ({"prompts": ("facts",)}, "facts.jsonl, line 1: needs a text under 'well'"),
    ],
)
def test_bad_settings(changes, said, tmp_path):
    cfg = ConfigDict(config.evals())
    cfg.temporal.update(changes)
    harness = laboratory(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        temporal.ready(asked(cfg, "temporal"), harness.device.tokens, scripted.TILES)
    assert "\n" not in str(error.value)


def test_a_grid_of_strength_zero_is_refused(tmp_path):
    with pytest.raises(InputError, match="evals.alphas"):
        temporal.temporal(laboratory(tmp_path, alphas=(0,)), settings(random=0, orthogonal=0))
