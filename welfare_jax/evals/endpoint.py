"""Any OpenAI-compatible endpoint as a judge: the cost is told first, requests are paced, retries are bounded.

The key comes from the environment variable that `key_env` names, and goes nowhere but into the request's header.
"""

import concurrent.futures as futures
import http.client
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request

from welfare_jax.errors import InputError
from welfare_jax.evals.settings import JudgeSettings

AGAIN = (408, 409, 425, 429)  # and every status from 500 on
LONGEST = 60.0  # seconds between two attempts, whatever the endpoint asks for
CHARACTERS = 4  # about so many to a token, for the estimate


def estimate(questions, config: JudgeSettings) -> tuple[int, int, float]:
    """(tokens in, at most tokens out, at most dollars) of asking all of them once."""
    read = sum(len(q.text) for q in questions) // CHARACTERS + 8 * len(questions)
    written = config.max_new_tokens * len(questions)
    return read, written, (read * config.price_in + written * config.price_out) / 1e6


def make(config: JudgeSettings):
    """`ask(questions)` over HTTP. Raises `InputError` before the first request if the estimate exceeds `max_cost`.

    Where a question gets no reply, none is begun after it; the replies to those under way are still handed over, so
    that nobody pays for them twice, and then the first failure is raised.
    """
    secret = os.environ.get(config.key_env, "") if config.key_env else ""
    pace = Pace(config.per_minute)

    def ask(questions):
        read, written, dollars = estimate(questions, config)
        said = f"judge {config.model}: {len(questions)} requests, about {read:,} tokens in, at most {written:,} out"
        print(f"{said}, at most ${dollars:.2f}", file=sys.stderr, flush=True)
        if config.max_cost and dollars > config.max_cost:
            raise InputError(
                f"{said}, ${dollars:.2f}: above evals.judge.max_cost={config.max_cost}; raise it to go on"
            )
        stop, failure = threading.Event(), None

        def one(question):
            """The question with its reply; nothing once another has failed."""
            try:
                return [] if stop.is_set() else [(question, request(question.text, config, secret, pace))]
            except BaseException:
                stop.set()
                raise

        with futures.ThreadPoolExecutor(config.parallel) as pool:
            try:
                for done in futures.as_completed([pool.submit(one, q) for q in questions]):
                    failure = failure or done.exception()
                    if done.exception() is None:
                        yield done.result()
            finally:
                stop.set()
        if failure:
            raise failure

    return ask


class Pace:
    """At most so many calls a minute, over all threads."""

    def __init__(self, per_minute: float):
        self.gap, self.next, self.lock = 60.0 / per_minute if per_minute else 0.0, 0.0, threading.Lock()

    def wait(self):
        with self.lock:
            now = time.monotonic()
            begin = max(now, self.next)
            self.next = begin + self.gap
        time.sleep(max(0.0, begin - now))


def body(config: JudgeSettings, text: str) -> dict:
    """What is sent: the usual fields, changed as `config.body` says."""
    usual = {"model": config.model, "messages": [{"role": "user", "content": text}], "temperature": 0.0,
             "max_tokens": config.max_new_tokens}  # fmt: skip
    return {k: v for k, v in (usual | config.fields).items() if v is not None}


def request(text: str, config: JudgeSettings, secret: str, pace: Pace) -> str:
    """One reply. Raises `InputError`: at once where the endpoint refuses the request, after `retries` more attempts
    where it is busy, broken or not there.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    url = config.url.rstrip("/") + "/chat/completions"
    data, why = json.dumps(body(config, text)).encode(), ""
    for attempt in range(config.retries + 1):
        pace.wait()
        after = ""
        try:
            sent = urllib.request.Request(url, data, headers)
            with urllib.request.urlopen(sent, timeout=config.timeout) as answer:
                return content(answer.read())
        except urllib.error.HTTPError as error:
            why, after = f"HTTP {error.code} ({_message(error, secret)})", error.headers.get("Retry-After", "")
            if error.code not in AGAIN and error.code < 500:
                raise InputError(f"judge {url}: {why}; {_advice(error.code, config)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = isinstance(getattr(error, "reason", error), TimeoutError)
            said = f"nothing within evals.judge.timeout={config.timeout:g} s" if late else f"{error}"
            why = f"{type(error).__name__} ({said})"
        if attempt < config.retries:
            time.sleep(min(float(after) if after.isdigit() else config.wait * 2**attempt, LONGEST))
    raise InputError(f"judge {url}: {config.retries + 1} attempts failed, the last with {why}; run again to go on")


def content(data: bytes) -> str:
    """The text of a chat completion; "" where a model said nothing. Raises `ValueError` for anything else."""
    try:
        said = json.loads(data)["choices"][0]["message"]["content"] or ""
        # Half of a surrogate pair, where an emoji was cut in two, cannot be written to a file.
        return said.encode(errors="replace").decode()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"not a chat completion: {_line(data) or 'empty'}") from None


def _advice(code: int, config: JudgeSettings) -> str:
    if code in (401, 403):
        return f"check the key in the environment variable {config.key_env or 'that evals.judge.key_env names'}"
    if code in (400, 422):
        return "check evals.judge.model, and with evals.judge.body change or leave out fields that it does not know"
    return "check evals.judge.url and evals.judge.model"


def _message(error: urllib.error.HTTPError, secret: str) -> str:
    try:
        said = _line(error.read())
    except (OSError, http.client.HTTPException):
        said = ""
    return (said.replace(secret, "...") if secret else said) or "no message"


def _line(data: bytes) -> str:
    return " ".join(data.decode(errors="replace").split())[:200]
