"""Chat templates, rendered by `transformers`; what they refuse is one line that names the prompt and the tokenizer."""

import datetime

from welfare_jax.errors import InputError

# Stands in for the function that templates ask for today's date. What a template is given is data, never a function,
# so the day comes as a table from every directive of `strftime` to its text.
FIXED = (
    "{% macro strftime_now(format) %}{% set out = namespace(text=format) %}{% for directive, value in fixed_day %}"
    "{% set out.text = out.text | replace(directive, value) %}{% endfor %}{{ out.text }}{% endmacro %}\n"
)
DIRECTIVES = "aAwdbBmyYHIpMSfzZjUWcxXGuVDFTReh%"


def on_day(tokenizer, arguments: dict, date: str) -> dict:
    """Keyword arguments of `apply_chat_template` with which a template writes `date` (as 2024-07-26) for today.

    Those given, where the template does not ask for the date.
    """
    if tokenizer.chat_template is None and "chat_template" not in arguments:
        return arguments
    source = tokenizer.get_chat_template(arguments.get("chat_template"))
    if "strftime_now" not in source:
        return arguments
    return arguments | {"chat_template": FIXED + source, "fixed_day": day(date)}


def day(date: str) -> list[tuple[str, str]]:
    """(directive, text) of a day, those without a leading zero too; the sign itself comes last."""
    texts = {c: datetime.date.fromisoformat(date).strftime("%" + c) for c in DIRECTIVES}
    return [(f"%-{c}", text.lstrip("0") or "0") for c, text in texts.items() if text.isdigit()] + [
        ("%" + c, text) for c, text in texts.items()
    ]


def render(tokenizer, messages, arguments=None, *, opening: bool) -> str:
    """The text of a conversation, a list of {"role", "content"}; opening: with the head of the next answer.

    arguments: keyword arguments of `apply_chat_template`. Raises `InputError` where there is no template, or where it
    refuses the conversation: some know no system role, others want users and assistants to take turns.
    """
    arguments, name = arguments or {}, tokenizer.name_or_path or type(tokenizer).__name__
    if tokenizer.chat_template is None and "chat_template" not in arguments:
        raise InputError(
            f"{_shown(messages)}: tokenizer {name} has no chat template; use an instruction-tuned folder, or set the "
            f"role lines text.transcript for a base model"
        )
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening, **arguments)
    except Exception as error:  # the template raises what it likes, and Jinja its own kinds
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"{_shown(messages)}: the chat template of tokenizer {name} refuses it ({why}); change the roles or their "
            f"order"
        ) from None
    if not text:
        raise InputError(f"{_shown(messages)}: the chat template of tokenizer {name} renders nothing; use another one")
    whole(text, _shown(messages))
    return text


def whole(text: str, where: str):
    """Refuse half characters (\ud83d alone), which Python can hold and no tokenizer can read; `where` names them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {text[error.start]!r} is half a character; write the whole one") from None


def _shown(messages) -> str:
    return f"prompt {str(messages[-1]['content'])[:60]!r} (roles {', '.join(m['role'] for m in messages)})"
