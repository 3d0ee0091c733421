"""With and without the words: what organisms have in common, and a whole small run, which is not done twice."""

import json

import numpy as np
import pytest

from welfare_jax import config as settings
from welfare_jax import experiments
from welfare_jax.experiments.success_text_ablation import run as words

QUESTION = "How is it going?"


def config():
    cfg = settings.words()
    cfg.model.dtype = "float32"
    cfg.words.update(steps=2, warmup=1)
    base = cfg.words.pretrain
    base.shape.update(layers=2, width=32, heads=2, kv_heads=1, head_dim=16, mlp=48)
    base.update(steps=2, rows=4, length=96, warmup=1, probe_every=2)
    base.tokenizer.update(documents=100, vocab_size=640)
    base.train.micro_batch = 4
    cfg.maze.update(size=15, turns=2)
    cfg.train.update(steps=2, groups=2, group_size=4, micro_batch=8, lr=1e-3, remat=False, checkpoint_every=1)
    cfg.train.lora.rank = 2
    cfg.curve.update(every=1, per_length=4)
    cfg.extract.update(per_length=4, held_out=0.5, batch=8)
    cfg.axes.limit = 8
    return cfg.lock()  # as the command has it


def planted(rng, layers=2, width=512, success=0.0, tile=3.0, noise=0.0):
    """What three organisms would show: each role's mean is its tile's vector, Gold's also `success` times an axis."""
    tiles, axis = rng.normal(size=(3, layers, width)), rng.normal(size=(layers, width))
    found = []
    for order in words.TILES:
        mean = [tile * tiles[t] + noise * rng.normal(size=(layers, width)) for t in order]
        gold, mold = mean[1] + success * axis, mean[2] - success * axis
        v = {
            f"{n}/{b}": m - (mean[0] if b == "path" else (mean[0] + o) / 2)
            for n, m, o in (("gold", gold, mold), ("mold", mold, gold))
            for b in ("rest", "path")
        }
        auroc = {"gold": np.full(layers, 0.7), "mold": np.full(layers, 0.6)}
        found.append({"vectors": v, "auroc": auroc, "d": np.full((1, layers), 0.5), "axes": {"s": axis}})
    return found


def test_tiles_cancel_and_reward_stays():
    """Planted: tiles alone leave nothing in the mean over organisms; success beside them is found, alone and whole."""
    rng = np.random.default_rng(0)
    only = words.numbers(planted(rng, noise=0.1))
    assert max(only["averaged_share"]) < 0.05 and max(map(abs, only["along/s"])) < 0.2
    np.testing.assert_allclose(only["cos_path"], 0.5, atol=0.06)  # three vectors that have nothing in common
    np.testing.assert_allclose(only["cos_rest"], -0.5, atol=0.06)
    both = words.numbers(planted(rng, success=1.0, noise=0.1))
    np.testing.assert_allclose(both["along/s"], 1.0, atol=0.02)
    np.testing.assert_allclose(both["averaged_path"], -1.0, atol=0.02)
    want = 2.0 / np.sqrt(2.0**2 + 2 * 3.0**2)  # 2 s beside the difference of two tiles, all of unit size
    np.testing.assert_allclose(both["averaged_share"], want, atol=0.03)
    assert both["auroc_gold"] == [0.7, 0.7] and both["d/s"] == [0.5, 0.5]


def test_over_seeds_by_hand():
    cells = [
        {
            "arm": arm,
            "seed": seed,
            "read": {m: {"": {"x": [a * k, 1.0]}} for m, k in (("untrained", 1), ("trained", 3))},
        }
        for arm, seed, a in (("with", 0, 1.0), ("with", 1, 2.0), ("without", 1, 5.0))
    ]
    found = words.over_seeds(cells)
    assert found["with"]["trained"][""]["x"][0]["mean"] == 4.5 and found["with"]["change"][""]["x"][0]["mean"] == 3.0
    half = 12.7062 * np.std([2.0, 4.0], ddof=1) / np.sqrt(2)  # t with one degree of freedom
    assert found["with"]["change"][""]["x"][0]["high"] == pytest.approx(3.0 + half, rel=1e-4)
    assert found["without"]["difference"][""]["x"][0]["mean"] == 2 * 2.0 - 2 * 5.0
    assert "difference" not in found["with"]
    assert found["without"]["untrained"][""]["x"][0] == {"mean": 5.0, "low": None, "high": None, "n": 1}


@pytest.mark.slow
def test_a_run_and_its_report(tmp_path, monkeypatch):
    summary = words.run(config(), tmp_path)
    assert list(summary["cells"]) == ["with-0", "without-0"]
    for name, cell in summary["cells"].items():
        found = cell["read"]["trained"]
        assert found.keys() == {"", QUESTION} and all(len(v) == 2 for own in found.values() for v in own.values())
        assert "along/success, walks" in found[QUESTION] and "along/success, walks" not in found[""]
        rows = [json.loads(line) for line in (tmp_path / "cells" / name / "metrics.jsonl").read_text().splitlines()]
        assert len(rows) == 2 and len(rows[0]["organisms"][0][f"axis_gold/success, walks?{QUESTION}"]) == 2
    made = [json.loads((tmp_path / "bases" / f"{arm}-0" / "config.json").read_text()) for arm in ("with", "without")]
    assert [own["sources"]["stories"]["weight"] for own in made] == [0.3, 0.0]
    page = experiments.report(tmp_path).read_text()
    assert "Left out" not in page.split('id="config"')[0] and "with accounts" in page
    assert (tmp_path / "tables" / "words_seeds.csv").is_file()
    # Again: nothing is pretrained, trained or read anew.
    monkeypatch.setattr(words.pretraining, "run", None)
    monkeypatch.setattr(words.loop, "train", None)
    again = words.run(config(), tmp_path)
    assert again["cells"] == json.loads(json.dumps(summary["cells"]))
