"""Pieces side by side against the tokenizers' own reading of the whole conversation, token for token."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from welfare_jax import templates
from welfare_jax.envs import maze
from welfare_jax.errors import InputError
from welfare_jax.rl import rollout
from welfare_jax.text import pieces as text
from welfare_jax.text.wording import Wording

NAMES = ["qwen3", "gemma3", "llama3_1", "gptoss"]
TRANSCRIPT = Wording(transcript=("Maze:\n", "\nMove:", "\n\n"))
WORDS = Wording(
    letters=("up", "right", "down", "left"), directions=("above", "to the right", "below", "to the left"),
    closing="Say up, right, down or left.",
)  # fmt: skip
TURNS = 15


@functools.partial(jax.jit, static_argnames=("size", "widths"))
def _play(table, keys, params, size, widths):
    """Uniform moves, from anywhere in the maze: every coordinate is shown."""

    def start(key):
        k_maze, k_place = jax.random.split(key)
        x, y = jax.random.randint(k_place, (2,), 0, size)
        return maze.reset(k_maze, params)[1]._replace(x=x, y=y)

    states = jax.vmap(start)(keys)
    return rollout.play(rollout.uniform(), None, table, size, widths, params, states, keys, 1.0, segments=1)


def played(pieces, episodes, size=31, **changes):
    """(conversations, shown): per episode the messages of every turn, and the tokens that the program laid out."""
    params = maze.Params(size=size, whole=True, **{"wind": 0.3} | changes)
    keys = jax.random.split(jax.random.key(episodes), episodes)
    out = jax.device_get(_play(pieces.table, keys, params, size, pieces.widths()))
    talks, shown = [], []
    for b in range(episodes):
        messages, rows = [], []
        for t in range(TURNS):
            wind = out.wind[b, t - 1] if t else -1
            said = pieces.wording.observation(out.x[b, t], out.y[b, t], out.neighbours[b, t], out.order[b, t], wind)
            letter = pieces.wording.letters[out.actions[b, t]]
            messages += [{"role": "user", "content": said}, {"role": "assistant", "content": letter}]
            turn = slice(out.read[b, t - 1] + 1 if t else 0, out.read[b, t] + 1)
            assert out.mask[b, turn][-1] and (np.diff(out.mask[b, turn].astype(int)) >= 0).all()  # at the right edge
            rows.append(out.tokens[b, turn][out.mask[b, turn]].tolist())
        talks.append(messages)
        shown.append(rows)
    return talks, shown


def agree(pieces, talks, shown, turns=range(TURNS)):
    """The tokens shown up to a turn are what the tokenizer makes of the history with the generation prompt."""
    tok, cases = pieces.tokenizer, [(talk, rows, t) for talk, rows in zip(talks, shown) for t in turns]
    texts = [
        tok.apply_chat_template(talk[: 2 * t + 1], tokenize=False, add_generation_prompt=True, **pieces.template)
        for talk, _, t in cases
    ]
    for (talk, rows, t), want in zip(cases, tok(texts, add_special_tokens=False)["input_ids"]):
        assert list(itertools.chain(*rows[: t + 1])) == want, (t, talk[2 * t])


@pytest.mark.parametrize("wording", [Wording(), TRANSCRIPT, WORDS], ids=["chat", "transcript", "words"])
@pytest.mark.parametrize("name", NAMES)
def test_shown_tokens_are_the_rendering_at_every_turn(name, wording, shared_tokenizer):
    pieces = text.build(shared_tokenizer(name), wording, size=31)
    assert pieces.append_only
    agree(pieces, *played(pieces, 20))


@pytest.mark.slow
@pytest.mark.parametrize("wording", [Wording(), TRANSCRIPT], ids=["chat", "transcript"])
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_episodes(name, wording, shared_tokenizer):
    """In the full maze, at every turn."""
    pieces = text.build(shared_tokenizer(name), wording)
    talks, shown = played(pieces, 1000, size=100)
    for i in range(0, 1000, 100):
        agree(pieces, talks[i : i + 100], shown[i : i + 100])
    if not wording.transcript:
        places = [m["content"].split("(")[1].split(")")[0] for talk in talks for m in talk[::2]]
        at = {tuple(map(int, place.split(","))) for place in places}
        assert {x for x, _ in at} == {y for _, y in at} == set(range(100))


def test_what_gpt_oss_and_base_models_are_shown(shared_tokenizer):
    """To the letter: answers in the final channel, and a bare transcript with the blank in the answer's token."""
    gptoss, llama = shared_tokenizer("gptoss"), shared_tokenizer("llama3_1")
    for tok, wording, want in (
        (gptoss, Wording(), "<|start|>user<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>N<|end|>"
         "<|start|>user<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>"),
        (llama, TRANSCRIPT, "<|begin_of_text|>Maze:\n{}\nMove: N\n\nMaze:\n{}\nMove:"),
    ):  # fmt: skip
        pieces = text.build(tok, wording, size=31)
        turns = [(0, 3, 4, [0, 1, 2, 0], [0, 1, 2, 3], -1), (0, 3, 3, [0, 1, 2, 0], [0, 1, 2, 3], 2)]
        ids = [i for t, turn in enumerate(turns) for i in text.turn_ids(pieces, turn, t == 0)]
        assert tok.decode(ids) == want.format(*(wording.observation(*turn[1:]) for turn in turns))
    assert llama.decode([int(pieces.table.letters[0])]) == " N"


def test_a_chat_template_of_ones_own(shared_tokenizer):
    own = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"
    pieces = text.build(shared_tokenizer("gptoss"), size=31, template={"chat_template": own})
    talks, shown = played(pieces, 5)
    agree(pieces, talks, shown)
    assert pieces.tokenizer.decode(shown[0][0]).startswith("[user]You are at")


@pytest.mark.parametrize("size", [31, 100])
def test_the_tiny_tokenizer(size, tiny_tokenizer):
    pieces = text.build(tiny_tokenizer, size=size)
    assert pieces.append_only
    agree(pieces, *played(pieces, 20, size))


@pytest.mark.parametrize("episodes", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_thinking_off_shows_each_turn_as_the_template_does(episodes, shared_tokenizer):
    """The template drops the empty think block from answered turns, so what was shown is not a prefix of it."""
    tokenizer, template = shared_tokenizer("qwen3"), {"enable_thinking": False}
    pieces = text.build(tokenizer, size=31, template=template)
    assert not pieces.append_only
    talks, shown = played(pieces, episodes)
    prompt = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    for i, (messages, rows) in enumerate(zip(talks, shown)):
        leads = ["", *(f"{m['content']}<|im_end|>\n" for m in messages[1:-1:2])]
        wants = [f"{lead}<|im_start|>user\n{m['content']}{prompt}" for lead, m in zip(leads, messages[::2])]
        assert rows == tokenizer(wants, add_special_tokens=False)["input_ids"]
        for t in range(TURNS) if episodes == 20 else [i % TURNS]:
            full = tokenizer.apply_chat_template(
                messages[: 2 * t + 1], tokenize=False, add_generation_prompt=True, **template
            )
            assert full.endswith(wants[t])
    whole = tokenizer.apply_chat_template(talks[0][:-1], add_generation_prompt=True, return_dict=False, **template)
    assert list(itertools.chain(*shown[0])) != whole


@pytest.mark.parametrize("tiles", itertools.permutations(Wording().tiles))
def test_permuted_tiles(tiles, tiny_tokenizer):
    """A role's number finds the sign that this wording gives it."""
    pieces = text.build(tiny_tokenizer, Wording(tiles=tiles), size=31)
    for direction, role in itertools.product(range(4), range(3)):
        n = text.NEIGHBOUR + 3 * direction + role
        line = tiny_tokenizer.decode(pieces.table.tokens[n][: pieces.table.lengths[n]])
        assert line == f"{('North', 'East', 'South', 'West')[direction]}: {tiles[role]}\n"
    agree(pieces, *played(pieces, 20), [TURNS - 1])


@pytest.mark.parametrize("name", NAMES)
def test_widths_are_the_longest_turns(name, shared_tokenizer):
    """No turn is longer, some turn is as long."""
    pieces = text.build(shared_tokenizer(name))
    lengths = np.asarray(pieces.table.lengths)
    around = max(
        sum(lengths[text.NEIGHBOUR + 3 * d + r] for d, r in enumerate(roles))
        for roles in itertools.product(range(3), repeat=4)
    )
    x, y = lengths[text.X : text.X + 100].max(), lengths[text.X + 100 :].max()
    calm = around + x + y + lengths[text.CLOSE]
    first, later = calm + lengths[text.FIRST], calm + 1 + lengths[text.NEXT]
    windy = later + lengths[text.WIND : text.NEIGHBOUR].max()
    assert (pieces.widths(calm=True), pieces.widths()) == ((first, later), (first, windy))
    assert (pieces.slots(3, calm=True), pieces.slots(3)) == (first + 2 * later, first + 2 * windy)


def test_the_stand_in_is_as_long_as_qwen3(shared_tokenizer):
    """Without a tokenizer at hand the work is the same."""
    real, ours = text.build(shared_tokenizer("qwen3")), text.stand_in()
    assert (ours.widths(), ours.widths(calm=True), ours.size) == (real.widths(), real.widths(calm=True), real.size)
    np.testing.assert_array_equal(ours.table.lengths, real.table.lengths)


@pytest.mark.parametrize("align", ["left", "right"])
def test_pack_against_python(align):
    rng = np.random.default_rng(0)
    lengths = np.array([0, 1, 4, 2, 0, 7, 3])
    table = text.Table(jnp.asarray(rng.integers(1, 99, (7, 7))), jnp.asarray(lengths), jnp.zeros(4))
    numbers = rng.integers(0, 7, (40, 5))
    tokens, mask = text.pack(table, jnp.asarray(numbers), 24, align)
    for row, got, kept in zip(numbers, np.asarray(tokens), np.asarray(mask)):
        want = [t for n in row for t in np.asarray(table.tokens)[n, : lengths[n]]]
        pad = [0] * (24 - len(want))
        assert got.tolist() == (want + pad if align == "left" else pad + want)
        assert kept.sum() == len(want) and kept[0 if align == "left" else -1] == bool(want)
        assert (np.diff(kept.astype(int)) * (1 if align == "right" else -1) >= 0).all()


JOINED = Wording(place="Cell {x}{y}.\n")  # digits of two numbers meet


def test_a_wording_may_fit_one_tokenizer_and_not_another(shared_tokenizer):
    text.build(shared_tokenizer("qwen3"), JOINED, size=40)  # a token a digit
    with pytest.raises(InputError) as error:
        text.build(shared_tokenizer("llama3_1"), JOINED, size=40)  # up to three digits a token
    said = str(error.value)
    assert "llama3_1" in said and "turn " in said and "token " in said and "'Cell" not in said.split("after")[0]
    assert "config.text" in said and "\n" not in said


@pytest.mark.parametrize(
    ("wording", "turn", "place"),
    [  # a space at the end of a piece belongs to the next word
        (Wording(place="You are at ({x}, {y}). "), 1, ")."),
        (Wording(wind="Wind from the {direction} side, "), 2, "side,"),
        (Wording(neighbour="{tile} lies {direction}, "), 1, ","),
    ],
    ids=["place", "wind", "neighbour"],
)
@pytest.mark.parametrize("template", [{}, {"enable_thinking": False}], ids=["whole", "by_turn"])
def test_pieces_that_do_not_compose_are_refused(wording, turn, place, template, shared_tokenizer):
    with pytest.raises(InputError, match=rf"in turn {turn}, token \d+: after") as error:
        text.build(shared_tokenizer("qwen3"), wording, size=20, template=template)
    assert place in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tiny", "gemma3", "gptoss", "llama3_1", "qwen3"])
@pytest.mark.parametrize("template", [{}, {"enable_thinking": False}], ids=["whole", "by_turn"])
def test_a_question_after_the_last_answer(name, template, shared_tokenizer, tiny_tokenizer):
    """What follows an answer is what the template puts there: a whole conversation ends in it."""
    tok = tiny_tokenizer if name == "tiny" else shared_tokenizer(name)
    pieces = text.build(tok, size=20, template=template)
    ids = text.follow_up(pieces, "How is it going?")
    said = [("user", pieces.wording.observation(3, 4, [0, 1, 2, 0], range(4))), ("assistant", "S")]
    roles = [*said, ("user", "How is it going?")]
    messages = [{"role": r, "content": c} for r, c in roles]
    whole = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **pieces.template)
    whole = tok(whole, add_special_tokens=False)["input_ids"]
    assert whole[-len(ids) :] == ids and whole[-len(ids) - 1] == int(pieces.table.letters[2])


@pytest.fixture
def variant(tiny_tokenizer_dir):
    """A fresh copy of the tiny tokenizer, to be spoilt."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def test_answers_that_begin_alike_are_refused(shared_tokenizer):
    """One token is sampled; words of several tokens are fine as long as the first tells them apart."""
    tok = shared_tokenizer("qwen3")
    pieces = text.build(tok, Wording(letters=("northward", "eastward", "southward", "westward")), size=20)
    assert (np.asarray(pieces.table.lengths[text.LETTER : text.WIND]) > 1).any()
    agree(pieces, *played(pieces, 5, size=20))
    with pytest.raises(InputError) as error:
        text.build(tok, Wording(letters=("N", "E", "W", "Wx")), size=20)
    assert "text.letters" in str(error.value) and "'W', 'W'" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("wording", [Wording(), Wording(date="2031-05-06")], ids=["default", "set"])
def test_a_template_that_writes_the_date_is_told_the_wordings(wording, tiny_tokenizer, monkeypatch):
    """Whatever the day of the run, which `transformers` would write."""
    import copy
    import datetime

    import transformers.utils.chat_template_utils as theirs

    dated = copy.deepcopy(tiny_tokenizer)
    dated.chat_template = "{{ strftime_now('%d %b %Y') + '.' }}" + tiny_tokenizer.chat_template
    turn = (0, 3, 4, [0, 1, 2, 0], [0, 1, 2, 3], -1)
    found = []
    for day in (datetime.datetime(2025, 3, 4), datetime.datetime(2025, 3, 5)):
        clock = type("Clock", (datetime.datetime,), {"now": classmethod(lambda cls, tz=None, day=day: day)})
        monkeypatch.setattr(theirs, "datetime", clock)
        theirs._compile_jinja_template.cache_clear()
        found.append(text.build(dated, wording, size=20))
        assert day.strftime("%d %b") in dated.apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False
        )  # the clock is really another
    said = [tiny_tokenizer.decode(text.turn_ids(p, turn, True)) for p in found]
    want = {"2024-07-26": "26 Jul 2024.", "2031-05-06": "06 May 2031."}[wording.date]
    assert said[0] == said[1] and said[0].startswith(want) and found[0].digest == found[1].digest
    assert found[0].dated and not text.build(tiny_tokenizer, size=20).dated
    other = text.build(dated, Wording(date="1999-12-31"), size=20)
    assert other.digest != found[0].digest


def test_a_transcript_has_no_other_roles(tiny_tokenizer):
    with pytest.raises(InputError, match="users and assistants only"):
        templates.render(
            tiny_tokenizer, [{"role": "system", "content": "x"}], text.arguments(tiny_tokenizer, TRANSCRIPT),
            opening=True,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("template", "names"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}<|user|>{{ loop.index }} {{ m.content }}{% endfor %}<|assistant|>", "differently"),
        ("{% for m in messages %}<|user|>{{ m.content | upper }}{% endfor %}<|assistant|>", "chat template"),
        ("{{ raise_exception('no assistants here') if messages|length > 1 }}{{ messages[0].content }}", "assistants"),
    ],
    ids=["none", "numbered turns", "shouting", "one turn only"],
)
def test_templates_that_cannot_be_used(template, names, variant):
    variant.chat_template = template
    with pytest.raises(InputError) as error:
        text.build(variant, size=20)
    assert names in str(error.value) and "\n" not in str(error.value)
