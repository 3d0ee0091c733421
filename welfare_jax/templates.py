"""Chat templates, rendered by `transformers`; what they refuse is one line that names the prompt and the tokenizer."""

from welfare_jax.errors import InputError


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
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening, **arguments)
    except Exception as error:  # the template raises what it likes, and Jinja its own kinds
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"{_shown(messages)}: the chat template of tokenizer {name} refuses it ({why}); change the roles or their "
            f"order"
        ) from None


def _shown(messages) -> str:
    return f"prompt {str(messages[-1]['content'])[:60]!r} (roles {', '.join(m['role'] for m in messages)})"
