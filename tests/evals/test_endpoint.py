"""An endpoint as a judge: a server of `transformers` with a released model, and one that fails in every way."""

import contextlib
import dataclasses
import http.server
import json
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter

import jax
import pytest
import scripted

import welfare_jax as wj
from welfare_jax import config, mesh
from welfare_jax.errors import InputError
from welfare_jax.evals import cells, endpoint, journal, judge, refusal
from welfare_jax.evals.evaluation import Judged
from welfare_jax.evals.settings import JudgeSettings
from welfare_jax.settings import typed
from welfare_jax.text import pieces

REAL = pathlib.Path(__file__).parents[2] / "models" / "smollm2"
FINE = "Verdict: direct answer"
ANSWERS = ("Paris.", "I'm sorry, I can't help with that.", "Have you tried a walk?", "7, 8, 9", "No.", "Yes, gladly.")


class Server:
    """Answers from a list, whose last one is repeated: a text, an HTTP status, or a function of the handler."""

    def __init__(self, *answers, port=0):
        self.answers, self.seen, self.times, outer = list(answers), [], [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, self.headers.get("Authorization"), self.body))
                outer.times.append(time.monotonic())
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if callable(answer):
                    answer(self)
                elif isinstance(answer, int):
                    send(self, f"code {answer}\nfor {self.headers.get('Authorization')}", answer)
                else:
                    send(self, completion(answer))

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def completion(text) -> str:
    return json.dumps({"choices": [{"message": {"content": text}}]})


def send(handler, text, status=200, length=None, **headers):
    data = text.encode()
    handler.send_response(status)
    for name, value in {"Content-Length": len(data) if length is None else length, **headers}.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    with contextlib.suppress(OSError):  # who asked may have gone
        handler.wfile.write(data)


def sends(text, **how):
    return lambda handler: send(handler, text, **how)


def reset(handler):
    """Closes the connection with a reset in place of a farewell."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def late(handler):
    time.sleep(3.0)
    send(handler, completion(FINE))


def settings(**changes):
    return typed(JudgeSettings, {"evals": config.evals()}, "evals.judge", **changes)


@pytest.fixture
def served():
    servers = []

    def serve(*answers, port=0, **changes):
        servers.append(Server(*answers, port=port))
        fast = {"kind": "endpoint", "url": servers[-1].url, "wait": 0.01, "per_minute": 0.0}
        return servers[-1], settings(**fast | {"model": "m", "key_env": "A_KEY"} | changes)

    yield serve
    for s in servers:
        s.stop()


def questions(n):
    return [judge.question("refusal", "e", "", "{answer}" * 20, "?", f"answer {i}") for i in range(n)]


def evaluate(folder, cfg, answers=ANSWERS, load=None) -> list:
    """The refusal evaluation of one cell that gives `answers`, judged as `cfg` says; again in the same folder, it goes
    on as the same command would."""
    rows = "".join(json.dumps({"prompt": f"request {i}"}) + "\n" for i in range(len(answers)))
    (folder / "requests.jsonl").write_text(rows)
    asked = Judged((str(folder / "requests.jsonl"),), samples=1)
    script = scripted.Script(lambda cell, talk, sample: answers[int(talk.split()[-1])])
    harness = scripted.make(folder, script, None, models=("untrained",), alphas=(0.0,))
    harness.judge = judge.build(cfg, load, ())
    try:
        return refusal.refusal(harness, asked)
    finally:
        for book in (harness.judgements, harness.answers, harness.readouts):
            book.close()


def judged(folder) -> list[str]:
    """The answers in the journal, one of each line."""
    return sorted(json.loads(line)["answer"] for line in (folder / "judgements.jsonl").read_text().splitlines())


def asked(server) -> Counter:
    """How often each answer was shown to the server."""
    shown = [body["messages"][0]["content"] for _, _, body in server.seen]
    return Counter(text.split("<answer>")[1].split("</answer>")[0] for text in shown)


def refused(folder, cfg, answers, *parts) -> str:
    """The evaluation ends in one line with all of `parts`."""
    with pytest.raises(InputError) as caught:
        evaluate(folder, cfg, answers)
    said = str(caught.value)
    assert "\n" not in said and not [p for p in parts if p not in said], said
    return said


def test_questions_are_asked_once(served, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("A_KEY", "sk-secret")
    server, cfg = served(FINE, price_in=2.0, price_out=8.0)
    rows = evaluate(tmp_path, cfg)
    assert [row["metrics"]["refusal"] for row in rows] == [0.0] * 6 and judged(tmp_path) == sorted(ANSWERS)
    assert evaluate(tmp_path, cfg) == rows and asked(server) == Counter(ANSWERS)
    path, secret, body = server.seen[0]
    assert path == "/v1/chat/completions" and secret == "Bearer sk-secret"
    assert body.keys() == {"model", "messages", "temperature", "max_tokens"} and body["temperature"] == 0
    assert (body["model"], body["max_tokens"]) == ("m", cfg.max_new_tokens)
    assert "6 requests" in capsys.readouterr().err
    assert not any("sk-secret" in p.read_text() for p in tmp_path.iterdir())
    read, written, dollars = endpoint.estimate(questions(10), cfg)
    assert (read, written) == (10 * 20 * 8 // 4 + 80, 320) and dollars == pytest.approx((read * 2 + written * 8) / 1e6)


def test_fields_of_the_request(served, tmp_path):
    """Some models want another name for the limit, and no temperature. With other fields it is another judge."""
    server, cfg = served(FINE, body='{"max_tokens": null, "temperature": null, "max_completion_tokens": 9, "seed": 3}')
    evaluate(tmp_path, cfg, ANSWERS[:1])
    sent = server.seen[0][2]
    assert sent.keys() == {"model", "messages", "max_completion_tokens", "seed"}
    assert (sent["max_completion_tokens"], sent["seed"]) == (9, 3)
    cfg = dataclasses.replace(cfg, body='{"temperature": 0.5}')
    evaluate(tmp_path, cfg, ANSWERS[:1])
    assert server.seen[1][2]["temperature"] == 0.5 and server.seen[1][2]["max_tokens"] == cfg.max_new_tokens
    for bad in ("[1]", "{", '{"messages": []}'):
        with pytest.raises(InputError, match="evals.judge.body"):
            settings(kind="endpoint", url=server.url, model="m", body=bad)


@pytest.mark.parametrize("text", [None, "", "\ud83d"])
def test_replies_without_words(text, served, tmp_path):
    """A model that said nothing, or half an emoji, has replied; the parser finds no verdict in it."""
    server, cfg = served(text)
    for _ in range(2):
        assert [row["unparseable"] for row in evaluate(tmp_path, cfg, ANSWERS[:1])] == [True]
    assert len(server.seen) == 1


PASSING = {  # what may pass, and what is said of it
    "time-out": (late, "nothing within evals.judge.timeout=1 s"),
    **{f"HTTP {code}": (code, f"HTTP {code} (code {code} for") for code in (408, 409, 429, 500, 502, 503, 504, 529)},
    "reset": (reset, "ConnectionResetError"),
    "no answer": (lambda handler: None, "RemoteDisconnected"),
    "no HTTP": (lambda handler: handler.wfile.write(b"hello\n"), "BadStatusLine"),
    "cut short": (sends(completion(FINE)[:20], length=1000), "IncompleteRead"),
    "truncated JSON": (sends(completion(FINE)[:-5]), "not a chat completion"),
    "no choices": (sends('{"choices": []}'), 'not a chat completion: {"choices": []}'),
    "an error as a reply": (sends('{"error": {"message": "overloaded"}}'), "overloaded"),
    "a page": (sends("<html>\nsign in\n</html>"), "not a chat completion: <html> sign in"),
    "parts": (sends(completion([{"text": FINE}])), "not a chat completion"),
    "nothing": (sends(""), "not a chat completion: empty"),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_may_pass_is_tried_again(case, served, tmp_path):
    """A moment's failure goes unnoticed. Where it stays, one line says what it is, and the next run asks again."""
    answer, said = PASSING[case]
    server, cfg = served(answer, FINE, timeout=1.0 if case == "time-out" else 60.0, retries=1, parallel=1)
    assert evaluate(tmp_path, cfg, ANSWERS[:1])[0]["metrics"]["refusal"] == 0.0 and len(server.seen) == 2
    server.answers = [FINE, answer]
    refused(tmp_path, cfg, ANSWERS[:3], server.url, "2 attempts failed", said, "run again to go on")
    assert len(server.seen) == 2 + 1 + 2
    server.answers = [FINE]
    assert len(evaluate(tmp_path, cfg, ANSWERS[:3])) == 3
    assert len(server.seen) == 5 + 1 and judged(tmp_path) == sorted(ANSWERS[:3])


def test_an_endpoint_says_when_to_come_back(served, tmp_path, monkeypatch):
    server, cfg = served(sends("busy", status=429, Retry_After=1), FINE)
    evaluate(tmp_path, cfg, ANSWERS[:1])
    assert server.times[1] - server.times[0] >= 1.0
    monkeypatch.setattr(endpoint, "LONGEST", 0.1)  # seconds
    server.answers = [sends("tomorrow", status=429, Retry_After=86400), FINE]
    (tmp_path / "again").mkdir()
    evaluate(tmp_path / "again", cfg, ANSWERS[:1])
    assert len(server.seen) == 4


@pytest.mark.parametrize(("code", "advice"), [
    (400, "evals.judge.body"), (401, "environment variable A_KEY"), (403, "environment variable A_KEY"),
    (404, "evals.judge.url"), (422, "evals.judge.body"),
])  # fmt: skip
def test_refusals_are_not_tried_again(code, advice, served, tmp_path, monkeypatch):
    """One line names the endpoint, what it said and what to do, but not the key that the endpoint sent back."""
    monkeypatch.setenv("A_KEY", "sk-secret")
    server, cfg = served(code)
    said = refused(tmp_path, cfg, ANSWERS[:1], server.url, f"HTTP {code} (code {code} for Bearer ...)", advice)
    assert len(server.seen) == 1 and "sk-secret" not in said


def test_a_failure_does_not_lose_what_others_answer(served, tmp_path):
    """Of three under way one is refused before the others are answered: they are kept, and nothing else begins."""
    together, first = threading.Barrier(3), threading.Event()

    def answer(handler):
        if together.wait() == 0:
            send(handler, "no", 400)
            first.set()
        else:
            first.wait()
            time.sleep(0.3)
            send(handler, completion(FINE))

    server, cfg = served(answer, parallel=3)
    refused(tmp_path, cfg, ANSWERS, "HTTP 400")
    kept = judged(tmp_path)
    assert len(server.seen) == 3 and len(kept) == 2
    server.answers = [FINE]
    assert len(evaluate(tmp_path, cfg)) == 6 and judged(tmp_path) == sorted(ANSWERS)
    assert len(server.seen) == 3 + 4 and all(asked(server)[text] == 1 for text in kept)


def test_a_server_that_dies_and_comes_back(served, tmp_path):
    def last(handler):
        server.stop()
        send(handler, completion(FINE))

    server, cfg = served(FINE, FINE, last, retries=1, parallel=1)
    refused(tmp_path, cfg, ANSWERS, server.url, "2 attempts failed", "Connection refused", "run again")
    assert len(judged(tmp_path)) == len(server.seen) == 3
    again, _ = served(FINE, port=server.port)
    assert len(evaluate(tmp_path, cfg)) == 6 and judged(tmp_path) == sorted(ANSWERS)
    assert asked(server) + asked(again) == Counter(ANSWERS)


def test_what_is_refused_before_anything_is_asked(served, tmp_path):
    server, cfg = served(FINE, price_in=1e6, max_cost=1.0)
    refused(tmp_path, cfg, ANSWERS, "max_cost")
    assert not server.seen
    for url, said in ((server.url.removeprefix("http://"), "evals.judge.url='127.0.0.1.*http://"), ("", "judge.url")):
        with pytest.raises(InputError, match=said):
            settings(kind="endpoint", url=url, model="m")


def test_the_pace_is_kept(served):
    server, cfg = served(FINE, per_minute=600.0, parallel=4)
    assert len(list(endpoint.make(cfg)(questions(5)))) == 5
    times = sorted(server.times)
    assert all(b - a > 0.06 for a, b in zip(times, times[1:])) and times[-1] - times[0] > 0.35


@contextlib.contextmanager
def transformers_server(folder, log):
    """`transformers serve` with a model's folder on this machine alone: its address, while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "--device", "cpu", "--host", "127.0.0.1", "--port", port], stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + 300
        while True:
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs models/smollm2: bash launchers/model.sh smollm2")
def test_a_real_server(tmp_path, monkeypatch):
    """It replies what the same weights reply as a local judge, and is asked each question once."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for one another take long on a busy machine
    lm, log = wj.load(REAL), tmp_path / "log"
    folder = wj.save_hf(lm, tmp_path / "model")
    asked = {"kind": "endpoint", "model": str(folder), "max_new_tokens": 8, "timeout": 300.0, "parallel": 2}
    with transformers_server(folder, log) as url:
        cfg = settings(**asked | {"url": url, "per_minute": 0.0})
        rows = evaluate(tmp_path, cfg)
        assert evaluate(tmp_path, cfg) == rows and log.read_text().count("POST /v1/chat/completions") == 6
        refused(
            tmp_path,
            dataclasses.replace(cfg, model="another"),
            ANSWERS,
            url,
            "HTTP 400",
            "another",
            "evals.judge.model",
        )
    (tmp_path / "local").mkdir()
    cfg = dataclasses.replace(cfg, kind="model")
    model = cells.Model(lm.graphdef, lm.params, lm.tokenizer, "")
    one = jax.make_mesh((1, 1, 1), mesh.AXES, devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,) * 3)
    device = cells.Device({"judge": model}, None, one, len(ANSWERS), 1, pieces.arguments(lm.tokenizer))
    assert evaluate(tmp_path / "local", cfg, load=lambda path: (lambda think: device, str)) == rows
    there, here = (
        {row["answer"]: row["reply"] for row in journal.read(at / "judgements.jsonl").values()}
        for at in (tmp_path, tmp_path / "local")
    )
    assert there == here and there.keys() == set(ANSWERS) and all(there.values()), there
