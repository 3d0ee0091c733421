"""tiny_world: no tile is favoured anywhere, goals are followed, and the little world is consistent."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from welfare_jax.text import tiny_world
from welfare_jax.text.tiny_world import GLAD, KINDS, SAD, STEPS, Mixture, documents, render
from welfare_jax.text.wording import LETTERS, Wording

WORDING = Wording()
CRITICAL = {2: 18.4, 3: 21.1, 11: 37.4}  # chi-square at p = 1e-4, by degrees of freedom
DONE = {"succeeded", "won", "done", "well", "met", "success", "planned", "smiled", "laughed", "joy", "luck"}
GONE = {"failed", "gave", "mistake", "badly", "missed", "failure", "wrong", "cried", "sighed", "pity", "shame"}


@pytest.fixture(scope="module")
def drawn():
    mixture = Mixture(steps=1, verdicts=1)
    return {k: list(itertools.islice(documents(3, mixture, WORDING, (k,)), 3000)) for k in KINDS}


def answers(doc):
    return [m["content"] for m in doc.messages if m["role"] == "assistant"]


def questions(doc):
    return [m["content"] for m in doc.messages if m["role"] == "user"]


def assert_even(counts, what):
    """`counts`: equally likely, independent outcomes."""
    counts = np.asarray(counts, float).ravel()
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert statistic < CRITICAL[counts.size - 1], (what, counts)


def own_words(doc):
    """The words of the account, without questions and one-word answers."""
    if doc.text:
        told = doc.text
    elif questions(doc)[0] in tiny_world.ASK_NOW + tiny_world.ASK_PAST:
        told = answers(doc)[0]
    else:
        told = re.sub(r"[^.!]*\?$", "", questions(doc)[0])
    return set(re.findall(r"[a-z]+", told.lower()))


def test_even_check_can_fail():
    with pytest.raises(AssertionError):
        assert_even([1120, 940, 940], "12 % more of one tile")


def test_stories_are_even_in_tile_goal_and_success(drawn):
    counts = np.zeros((3, 2, 2))
    for doc in drawn["stories"]:
        counts[doc.facts["tile"], int(doc.facts["reach"]), int(doc.facts["success"])] += 1
    assert_even(counts, "tile x goal x success")


def test_stories_state_the_goal_of_their_facts(drawn):
    for doc in drawn["stories"]:
        told, tile = render(doc), WORDING.tiles[doc.facts["tile"]]
        said = {
            (t, reach)
            for t in WORDING.tiles
            for reach, forms in ((True, tiny_world.REACH), (False, tiny_world.AVOID))
            if any(
                re.search(f"(to |must |task: |goal: |Goal: |Goal for [^:]*: ){f.format(t=t)}\\.", told) for f in forms
            )
        }
        assert said == {(tile, doc.facts["reach"])}, told


def test_success_and_failure_words_are_true_and_tile_blind(drawn):
    glad, sad = (set(GLAD) | DONE) - {"lost"}, (set(SAD) | GONE) - {"lost"}
    by_word, tiles_told = {}, Counter()
    for doc in drawn["stories"]:
        words, tile = own_words(doc), doc.facts["tile"]
        assert not words & (sad if doc.facts["success"] else glad), render(doc)
        for word in words & (glad | sad | {"lost"}):
            by_word.setdefault(word, [0, 0, 0])[tile] += 1
        tiles_told.update(t for t in WORDING.tiles if t in render(doc))
    assert set(GLAD) | set(SAD) | DONE | GONE <= set(by_word)
    for word, counts in by_word.items():
        assert_even(counts, word)
    assert_even(list(tiles_told.values()), "mentioned")


def test_stories_contact_follows_from_goal_and_success(drawn):
    seen = Counter()
    for doc in drawn["stories"]:
        for message, reply in itertools.pairwise(doc.messages):
            if re.search(r"Did \w+ touch a .\?$", message["content"]):
                assert reply["content"] == ("yes" if doc.facts["reach"] == doc.facts["success"] else "no")
                seen[reply["content"]] += 1
    assert min(seen["yes"], seen["no"]) > 50


def test_follow_up_feelings_fit(drawn):
    feelings = 0
    for doc in drawn["stories"]:
        for message, reply in itertools.pairwise(doc.messages):
            if message["content"].endswith("feel?"):
                assert reply["content"].rstrip(".").split()[-1] in (GLAD if doc.facts["success"] else SAD)
                feelings += 1
    assert feelings > 100


def read(content):
    """Observation text -> (wind or -1, (x, y), neighbours [4], order)."""
    wind = re.search(r"The wind pushed you (\w+)\.", content)
    place = re.search(r"You are at \((\d+), (\d+)\)\.", content)
    listed = re.findall(r"^(North|East|South|West): (.)$", content, re.M)
    order = [WORDING.directions.index(word.lower()) for word, _ in listed]
    near = {d: WORDING.tiles.index(tile) for d, (_, tile) in zip(order, listed, strict=True)}
    wind = WORDING.directions.index(wind[1]) if wind else -1
    return wind, (int(place[1]), int(place[2])), [near[d] for d in range(4)], order


def test_answers_about_surroundings_are_right(drawn):
    forms = Counter()
    for doc in drawn["questions"] + drawn["choices"]:
        near = read(doc.messages[0]["content"])[2]
        assert near == doc.facts["neighbours"]
        if "move" in doc.facts:
            assert all(question.endswith(WORDING.closing) for question in questions(doc))
            assert answers(doc) == [LETTERS[move] for move in doc.facts["move"]]
            for reach, avoid, move in zip(*(doc.facts[k] for k in ("reach", "avoid", "move")), strict=True):
                serves = [d for d in range(4) if near[d] == reach] or [d for d in range(4) if near[d] != avoid]
                assert move in serves or not serves
            continue
        for question, answer in zip(questions(doc), answers(doc), strict=True):
            question = question.splitlines()[-1]
            words = [d for d, word in enumerate(WORDING.directions) if word in question]
            tile = next((i for i, t in enumerate(WORDING.tiles) if t in question), None)
            ways = [LETTERS[d] for d in range(4) if near[d] == tile]
            form = question.split()[0]
            forms[form, tile] += 1
            if question == "What do you see?":
                told = [f"{word.capitalize()}: {WORDING.tiles[near[d]]}" for d, word in enumerate(WORDING.directions)]
                assert answer == "\n".join(told)
            elif form == "What":
                assert answer == WORDING.tiles[near[words[0]]]
            elif form == "Where":
                assert answer == (", ".join(ways) or "nowhere")
            elif form == "Which":
                assert answer in ways
            elif form == "How":
                assert answer == str(len(ways))
            else:
                assert answer == ("yes" if near[words[0]] == tile else "no")
    for form in ("Where", "Which", "How", "Is"):
        assert_even([forms[form, tile] for tile in range(3)], form)


@pytest.mark.parametrize("kind", ["choices", "goals"])
def test_goals_are_even_and_stated(drawn, kind):
    counts = {"reach": [0, 0, 0], "avoid": [0, 0, 0]}
    for doc in drawn[kind]:
        if "reach" not in doc.facts:
            continue
        goals = [(doc.facts["reach"], doc.facts["avoid"])]
        if kind == "choices":
            goals = list(zip(*goals[0], strict=True))
        for question, goal in zip(questions(doc), goals, strict=kind == "choices"):
            line = question.splitlines()[0]
            stated = {i for i, t in enumerate(WORDING.tiles) if t in line}
            wanted = {name: tile for name, tile in zip(("reach", "avoid"), goal, strict=True) if tile >= 0}
            assert stated == set(wanted.values()) and len(stated) == len(wanted) > 0
            for name, tile in wanted.items():
                forms = tiny_world.REACH if name == "reach" else tiny_world.AVOID
                assert any(f.format(t=WORDING.tiles[tile]) in line for f in forms)
                counts[name][tile] += 1
    assert_even(counts["reach"], "reach")
    assert_even(counts["avoid"], "avoid")


def turns(doc):
    for question, answer in zip(questions(doc), answers(doc), strict=True):
        yield *read(question), LETTERS.index(answer)


@pytest.mark.parametrize("kind", ["goals", "free"])
def test_world_is_consistent(drawn, kind):
    winds = moves = 0
    for doc in drawn[kind][:1000]:
        at = order = move = None
        left, known = set(), {}
        for i, (wind, place, near, listed, chosen) in enumerate(turns(doc)):
            assert wind == doc.facts["winds"][i] and (i > 0 or wind == -1)
            assert 0 <= min(place) and max(place) < tiny_world.SIDE
            assert order in (None, listed)
            if at is not None:  # the move, then the named push and nothing else
                for d in (move, wind) if wind >= 0 else (move,):
                    left.add(at)
                    at = (at[0] + STEPS[d][0], at[1] + STEPS[d][1])
                assert place == at
                winds, moves = winds + (wind >= 0), moves + 1
            at, order, move = place, listed, chosen
            for (dx, dy), tile in zip(STEPS, near, strict=True):
                cell = at[0] + dx, at[1] + dy
                assert tile == (doc.facts["melts"] if cell in left else known.setdefault(cell, tile))
    assert abs(winds / moves - tiny_world.WIND) < 4 * (0.09 / moves) ** 0.5
    assert_even(np.bincount([d.facts["melts"] for d in drawn[kind]]), "melts")


def test_free_moves_are_uniform_and_tile_blind(drawn):
    moves, places = np.zeros(4), np.zeros(4)
    excess, variance = np.zeros(3), np.zeros(3)
    for doc in drawn["free"]:
        for _, _, near, order, move in turns(doc):
            moves[move] += 1
            places[order.index(move)] += 1
            p = np.bincount(near, minlength=3) / 4  # chance that a blind move enters each tile
            excess += (near[move] == np.arange(3)) - p
            variance += p * (1 - p)
    assert_even(moves, "letters")
    assert_even(places, "position in the list")
    assert (abs(excess / np.sqrt(variance)) < 4).all()


def test_goal_moves_follow_the_goal_uniformly(drawn):
    ranks = {n: np.zeros(n) for n in (2, 3, 4)}
    for doc in drawn["goals"]:
        reach, avoid = doc.facts["reach"], doc.facts["avoid"]
        for _, _, near, _, move in turns(doc):
            serves = [d for d in range(4) if near[d] == reach]
            if not serves:
                serves = [d for d in range(4) if avoid < 0 or near[d] != avoid] or [0, 1, 2, 3]
            assert move in serves
            if len(serves) > 1:
                ranks[len(serves)][serves.index(move)] += 1
    for counts in ranks.values():
        assert (abs(counts - counts.mean()) < 4 * counts.mean() ** 0.5).all()


def test_documents_repeat_with_the_seed_and_mix_by_weight():
    mixture = Mixture(questions=1, choices=0, stories=2, goals=1, free=0)
    first = list(itertools.islice(documents(5, mixture, WORDING), 400))
    assert [render(d) for d in first] == [render(d) for d in itertools.islice(documents(5, mixture, WORDING), 400)]
    assert render(first[0]) != render(next(documents(6, mixture, WORDING)))
    counts = Counter(d.kind for d in first)
    assert counts["free"] == 0 and abs(counts["stories"] - 200) < 40
    with pytest.raises(ValueError, match="kinds"):
        next(documents(5, mixture, WORDING, ("story",)))
    with pytest.raises(ValueError, match="mixture"):
        next(documents(5, mixture, WORDING, ("free",)))


@pytest.mark.parametrize("kind", ["steps", "verdicts"])
def test_what_is_said_of_the_last_move_is_true_and_tile_blind(drawn, kind):
    """Told by the text alone: goal, neighbours and letter of the last turn, then every answer."""
    counts, feelings = np.zeros((3, 2)), np.zeros((2, 3))
    for doc in drawn[kind]:
        played = len(doc.facts["moves"])
        assert 1 <= played <= tiny_world.SHORT and 1 <= len(doc.messages) // 2 - played <= 3
        near, move = read(questions(doc)[played - 1])[2], LETTERS.index(answers(doc)[played - 1])
        landed, line = near[move], questions(doc)[0].splitlines()[0]
        well = None
        if kind == "verdicts":
            goal = next(i for i, t in enumerate(WORDING.tiles) if t in line)
            reach = any(f.format(t=WORDING.tiles[goal]) in line for f in tiny_world.REACH)
            well = reach == (landed == goal)
            counts[goal, int(reach)] += 1
            feelings[int(well), landed] += 1
        assert doc.facts["landed"] == landed and bool(doc.facts["success"]) == bool(well)
        for question, answer in zip(questions(doc)[played:], answers(doc)[played:], strict=True):
            words = set(re.findall(r"[a-z]+", (question + " " + answer).lower()))
            if kind == "steps":
                tile = next((i for i, t in enumerate(WORDING.tiles) if t in question), None)
                assert answer == (WORDING.tiles[landed] if tile is None else ("no", "yes")[tile == landed])
                assert not words & (set(GLAD) | set(SAD) | DONE | GONE)
            elif question.startswith("Did it go"):
                assert answer == ("yes" if well == question.endswith("well?") else "no")
            elif question.startswith("Rate"):
                assert (int(answer) >= 6) == well
            else:
                good, bad = {*GLAD, "good", "well"} | DONE, {*SAD, "bad", "badly"} | GONE
                told = set(re.findall(r"[a-z]+", answer.lower())) - {"lost"}
                assert told & (good if well else bad) or "lost" in answer
                assert not told & ((bad if well else good) - {"fine"}), (question, answer)
    if kind == "verdicts":
        assert_even(counts[:, 0], "tile to avoid")
        assert_even(counts[:, 1], "tile to reach")
        assert_even(feelings[0], "tile that fails")
        assert_even(feelings[1], "tile that succeeds")
        assert 0.35 < feelings[1].sum() / feelings.sum() < 0.65


def test_another_wording_is_used_throughout():
    wording = Wording(tiles=("\U0001f370", "\U0001f36a", "\U0001f369"), closing="Pick N, E, S or W.")
    for doc in itertools.islice(documents(1, Mixture(1, 1, 1, 1), wording), 300):
        assert not any(t in render(doc) for t in WORDING.tiles) and WORDING.closing not in render(doc)
