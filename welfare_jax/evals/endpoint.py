"""Any OpenAI-compatible endpoint as a judge: the cost is told first, requests are paced, retries are bounded.

The key comes from the environment variable that `key_env` names, and goes nowhere but into the request's header.
"""

import concurrent.futures as futures
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request

from welfare_jax.errors import InputError

AGAIN = (408, 409, 429, 500, 502, 503, 504)
CHARACTERS = 4  # about so many to a token, for the estimate


def estimate(questions, config) -> tuple[int, int, float]:
    """(tokens in, at most tokens out, at most dollars) of asking all of them once."""
    read = sum(len(q.text) for q in questions) // CHARACTERS + 8 * len(questions)
    written = config.max_new_tokens * len(questions)
    return read, written, (read * config.price_in + written * config.price_out) / 1e6


def make(config):
    """`ask(questions)` over HTTP. Raises `InputError` before the first request if the estimate exceeds `max_cost`."""
    if not config.url or not config.model:
        raise InputError("evals.judge: an endpoint needs evals.judge.url (ending in /v1) and evals.judge.model")
    body(config, "")  # what cannot be sent is refused before anything is asked
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
        with futures.ThreadPoolExecutor(config.parallel) as pool:
            waiting = {pool.submit(request, q.text, config, secret, pace): q for q in questions}
            try:
                for done in futures.as_completed(waiting):
                    yield [(waiting[done], done.result())]
            finally:
                for future in waiting:
                    future.cancel()

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


def body(config, text: str) -> dict:
    """What is sent: the usual fields, changed as `config.body` says."""
    try:
        own = json.loads(config.body or "{}")
    except ValueError:
        own = None
    if not isinstance(own, dict) or own.keys() & {"model", "messages", "stream", "n"}:
        raise InputError(
            f"evals.judge.body={config.body!r}: need a JSON object, without model, messages, stream and n"
        )
    usual = {"model": config.model, "messages": [{"role": "user", "content": text}], "temperature": 0.0,
             "max_tokens": config.max_new_tokens}  # fmt: skip
    return {k: v for k, v in (usual | own).items() if v is not None}


def request(text: str, config, secret: str, pace: Pace) -> str:
    """One reply; after `retries` failures an `InputError` that says what the endpoint answered."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    url = config.url.rstrip("/") + "/chat/completions"
    why = ""
    for attempt in range(config.retries + 1):
        pace.wait()
        try:
            sent = urllib.request.Request(url, json.dumps(body(config, text)).encode(), headers)
            with urllib.request.urlopen(sent, timeout=config.timeout) as found:
                return json.load(found)["choices"][0]["message"]["content"] or ""
        except urllib.error.HTTPError as error:
            why, after = f"HTTP {error.code}", error.headers.get("Retry-After", "")
            if error.code not in AGAIN:
                raise InputError(f"judge {url}: {why} ({_line(error)}); check the url, model and key") from None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:  # no network, or not the reply we know
            why, after = f"{type(error).__name__} {error}", ""
        if attempt < config.retries:
            time.sleep(min(float(after) if after.isdigit() else config.wait * 2**attempt, 60.0))
    raise InputError(f"judge {url}: {config.retries + 1} attempts failed, the last with {why}; run again to go on")


def _line(error) -> str:
    try:
        return " ".join(error.read().decode(errors="replace").split())[:200]
    except OSError:
        return "no message"
