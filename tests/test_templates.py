"""Chat templates against the tokenizer's own rendering, and one line where they refuse or are not there."""

import copy
import datetime

import pytest
import transformers.utils.chat_template_utils as theirs

import welfare_jax as wj
from welfare_jax import templates
from welfare_jax.errors import InputError

PICKY = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role\nnot supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def talk(*roles):
    return [{"role": role, "content": f"Message\n{i}"} for i, role in enumerate(roles)]


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return copy.deepcopy(tiny_tokenizer)


def test_what_is_accepted_is_the_tokenizers_own_rendering(tokenizer):
    for opening in (False, True):
        want = tokenizer.apply_chat_template(talk("user"), tokenize=False, add_generation_prompt=opening)
        assert templates.render(tokenizer, talk("user"), opening=opening) == want


@pytest.mark.parametrize(
    ("template", "prompts", "said"),
    [
        (PICKY, [talk("system", "user")], "System role not supported"),
        (PICKY, [talk("user", "user")], "Roles must alternate"),
        ("{{ messages[0].content.nothing.at_all }}", ["Hi"], "no attribute"),
        ("{% for m in messages %}", ["Hi"], "refuses it"),
        (None, ["Hi"], "has no chat template"),
    ],
)
def test_refusals_name_prompt_and_tokenizer(template, prompts, said, tokenizer):
    tokenizer.chat_template = template
    for call in (wj.encode, wj.assistant_tokens):
        with pytest.raises(InputError) as error:
            call(tokenizer, prompts)
        line = str(error.value)
        assert said in line and tokenizer.name_or_path in line and "\n" not in line
        assert repr("Hi" if prompts == ["Hi"] else "Message\n1") in line


@pytest.mark.parametrize(
    "prompts", [[], [[]], [None], [[{"role": "user"}]], [["Hi"]], talk("user"), [{"content": "x"}]]
)
def test_what_is_no_list_of_prompts(prompts, tokenizer):
    with pytest.raises(InputError, match="prompt"):
        wj.encode(tokenizer, prompts)


DATED = {
    "plain": "{{ strftime_now('%A %-d %B %Y, %d.%m.%y %j') }}{{ messages[0].content }}",
    "with a default": "\n  {%- if not date is defined %}\n{%- if strftime_now is defined %}\n"
    "    {%- set date = strftime_now('%d %b %Y') %}\n{%- else %}{%- set date = 'never' %}{%- endif %}{%- endif %}\n\n"
    "  {{ date }} {{ messages[0].content }}\n",
    "in a macro": "\n\n{%- macro head() %}Date: {{ strftime_now('%Y-%m-%d') }}{%- endmacro %}\n {{ head() }}\n",
}


@pytest.mark.parametrize("name", DATED)
def test_a_fixed_day_is_what_the_clock_would_say_on_it(name, tokenizer, monkeypatch):
    """Blanks and line ends included, against `transformers` with another clock."""
    tokenizer.chat_template = DATED[name]
    clock = type("Clock", (datetime.datetime,), {"now": classmethod(lambda cls, tz=None: cls(2031, 5, 6))})
    monkeypatch.setattr(theirs, "datetime", clock)
    want = tokenizer.apply_chat_template(talk("user"), tokenize=False)
    monkeypatch.undo()
    assert "2031" in want and tokenizer.apply_chat_template(talk("user"), tokenize=False) != want
    fixed = templates.on_day(tokenizer, {}, "2031-05-06")
    assert templates.render(tokenizer, talk("user"), fixed, opening=False) == want
    if name == "with a default":
        assert "today " in templates.render(tokenizer, talk("user"), fixed | {"date": "today"}, opening=False)


def test_other_templates_are_left_alone(tokenizer):
    assert templates.on_day(tokenizer, {"style": 1}, "2031-05-06") == {"style": 1}
    tokenizer.chat_template = None
    assert templates.on_day(tokenizer, {}, "2031-05-06") == {}
