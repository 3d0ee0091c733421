"""The analysis: the report's episodes, and what steered text is conditioned on."""

import copy

import jax
import numpy as np
import pytest
import worlds
from ml_collections import ConfigDict

from welfare_jax.envs import maze
from welfare_jax.experiments.axis import analysis
from welfare_jax.interp import extract, geometry, uncertainty
from welfare_jax.interp.axes import emotions
from welfare_jax.models import chat, generate, interventions, stops
from welfare_jax.text import pieces as text
from welfare_jax.train import state


@pytest.fixture(scope="module")
def world(tiny_tokenizer):
    return worlds.make(tiny_tokenizer)


def test_replays_say_what_was_played(world, tiny_tokenizer):
    """Every message decodes from the tokens that were shown, and the path of the player is continuous."""
    cfg = worlds.train_config(group_size=2)
    windy = world._replace(maze=maze.Params(size=15, turns=worlds.TURNS, wind=0.9))
    played, starts = worlds.collector(windy, cfg)(world.trainable, world.frozen, jax.random.key(1), 0, 0.7)
    episodes, reward = analysis.replays(played, starts.grid, 0.7, world.pieces, "trained", 2)
    assert reward == pytest.approx(float(np.asarray(played.rewards).sum(1).mean()), rel=1e-5)
    assert [e["title"] for e in episodes] == ["trained, maze 1", "trained, maze 2"]
    pushed = 0
    for row, e in zip((0, 2), episodes):
        shown = tiny_tokenizer.decode(np.asarray(played.tokens[row])[np.asarray(played.mask[row])])
        assert all(turn["message"] in shown for turn in e["turns"])
        assert e["reward"] == pytest.approx(sum(t["reward"] for t in e["turns"]), abs=1e-2)
        assert e["start"] == [e["turns"][0]["x"], e["turns"][0]["y"]]
        assert e["window"]["rows"][e["start"][1] - e["window"]["y0"]][e["start"][0] - e["window"]["x0"]] == "."
        for turn, after in zip(e["turns"], e["turns"][1:]):
            assert [after["x"], after["y"]] == turn["end"]
        for t, turn in enumerate(e["turns"]):
            assert sum(turn["probs"]) == pytest.approx(1, abs=1e-3)
            x = np.asarray(played.logits[row, t], "f8") / 0.7
            np.testing.assert_allclose(turn["probs"], np.exp(x) / np.exp(x).sum(), atol=1e-4)
            pushed += turn["wind"] >= 0
    assert pushed > 0


def test_steered_text(world, tiny_tokenizer):
    """One cell of the batch equals the same prompt, vector, layer and strength alone; strength 0 changes nothing."""
    cfg = ConfigDict(
        {
            "prompts": ["How is it going?", "What happened?"],
            "alphas": [-40.0, 0.0, 40.0],
            "max_new_tokens": 6,
            "temperature": 0.0,
        }
    )
    rng = np.random.default_rng(0)
    directions = {c: rng.normal(size=(3, 24)).astype("f4") for c in ("mold", "gold")}
    params = state.join(world.trainable, world.frozen)
    out = analysis.steer(
        world.graphdef,
        {"trained": params},
        tiny_tokenizer,
        directions,
        {"mold": 1, "gold": 2},
        cfg,
        template={},
        key=jax.random.key(0),
    )
    assert len(out) == 2 * 3 * 2 and all(row["layer"] == {"mold": 1, "gold": 2}[row["vector"]] for row in out)
    texts = {}
    for row in out:
        tokens, mask = chat.encode(tiny_tokenizer, [row["prompt"]])
        where = np.zeros_like(mask)
        where[:, -1] = True
        iv = interventions.add(directions[row["vector"]][row["layer"]], row["layer"], row["alpha"], where)
        new, kept = generate.generate(
            world.graphdef, params, tokens, mask, jax.random.key(9), max_new_tokens=6, interventions=iv,
            stop=stops.stop_ids(tiny_tokenizer),
        )  # fmt: skip
        assert row["text"] == tiny_tokenizer.decode(np.asarray(new)[0][np.asarray(kept)[0]], skip_special_tokens=True)
        texts.setdefault((row["prompt"], row["alpha"]), set()).add(row["text"])
    assert all(len(texts[prompt, 0.0]) == 1 for prompt in cfg.prompts)
    assert any(len(v) == 2 for (_, alpha), v in texts.items() if alpha)


LINES = {"chat_template": text.TRANSCRIPT, "lines": ["Q: ", "\nA:", "\n"]}


def scripted(monkeypatch, tokenizer, said):
    """`generate` says these texts, one after another; the list that it keeps of what it was asked to stop at."""
    asked = []

    def speak(graphdef, params, tokens, mask, key, *, max_new_tokens, temperature, stop, stop_strings, **_):
        asked.append((stop, stop_strings))
        rows = [tokenizer.encode(t, add_special_tokens=False) for t in said]
        new, kept = (np.resize(a, (len(tokens), a.shape[1])) for a in chat.pad(rows))
        return new, kept

    monkeypatch.setattr(generate, "generate", speak)
    return asked


@pytest.mark.parametrize("template", [{}, LINES], ids=["chat", "transcript"])
def test_steered_text_and_stories_end_where_an_answer_does(template, tiny_tokenizer, monkeypatch):
    """In a transcript at the next role line, which is no part of them; a word that the files list is none either."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    word = tokenizer.encode(" goal", add_special_tokens=False)
    assert len(word) == 1
    tokenizer.listed_ends = tuple(word)
    said = " north\n" if template else " north goal"
    asked = scripted(monkeypatch, tokenizer, [said])
    cfg = ConfigDict({"prompts": ["Where?"], "alphas": [1.0], "max_new_tokens": 9, "temperature": 1.0})
    directions = dict.fromkeys(("mold", "gold"), np.ones((3, 24), "f4"))
    rows = analysis.steer(
        None, {"m": None}, tokenizer, directions, {"mold": 1, "gold": 2}, cfg, template=template, key=None
    )
    assert [row["text"] for row in rows] == [" north"] * 2
    ids, _ = emotions.stories(None, None, tokenizer, ["calm"], ["a walk"], jax.random.key(0), template=template)
    assert [tokenizer.decode(row) for row in ids] == [" north" if template else " north goal"]
    for stop, table in asked:
        assert stop == stops.stop_ids(tokenizer, template) and word[0] in stop
        assert (table is not None) == bool(template)
        assert table is None or np.array_equal(table, stops.stop_strings(tokenizer, "\n"))


def grams_of(cosine: float, key: int):
    """What is read off a model of two layers whose v_mold and v_gold against Path have this cosine."""
    label = np.repeat(np.arange(3), 100)
    means = np.zeros((3, 8), np.float32)
    means[geometry.MOLD, 0], means[geometry.GOLD, :2] = 9, (9 * cosine, 9 * np.sqrt(1 - cosine**2))
    act = means[label] + np.random.default_rng(key).normal(size=(2, 300, 8)).astype(np.float32)
    sign = extract.signs(jax.random.key(0), (label << 24) + np.tile(np.arange(100), 3), 100)
    return jax.device_get(uncertainty.grams(extract.add(extract.nothing(2, 8, 100), act, label, sign)))


@pytest.mark.parametrize(("without_reward", "says"), [(0.5, "opposed"), (-0.5, "unknown")])
def test_runs_of_shuffled_rewards_are_held_against_the_others(without_reward, says):
    """Four trained runs end opposed: the reward did it only where those without reward do not."""
    ends = [-0.5, -0.45, -0.55, -0.5, *without_reward + np.array([0.03, -0.03, 0.0])]
    before = grams_of(0.5, 99)
    runs = [{"trained": grams_of(c, i), "untrained": before, "shams": [grams_of(0.5, 50 + i)] if i < 4 else []}
            for i, c in enumerate(ends)]  # fmt: skip
    config = ConfigDict({"outcome": {"baseline": "path", "layers": "signal", "least": 0.1, "shams": 4}})
    _, found = analysis.outcomes(config, runs, [False] * 4 + [True] * 3)
    assert found["verdict"] == "opposed" and found["runs"] == 4 and len(found["sham_changes"]) == 4
    assert found["change"] == pytest.approx(-1.0, abs=0.1)
    beside = found["shuffled"]
    assert beside["verdict"] in (says, "small") and beside["runs"] == 4 and len(beside["sham_changes"]) == 3
    assert beside["change"] == pytest.approx(-0.5 - without_reward, abs=0.1)
    _, alone = analysis.outcomes(config, runs[4:], [False] * 3)  # with nothing beside them
    assert alone["runs"] == 3 and "shuffled" not in alone
