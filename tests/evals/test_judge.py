"""What judges see and how they are read; an endpoint that fails, paces and costs; two judges compared."""

import http.server
import json
import math
import threading
import time
from collections import Counter

import numpy as np
import pytest
import scripted
from ml_collections import ConfigDict

from welfare_jax import config
from welfare_jax.errors import InputError
from welfare_jax.evals import agreement, backtracking, cells, endpoint, journal, judge, prompts, refusal, replies


def test_a_judge_sees_prompt_and_answer_and_nothing_else():
    q = judge.question("refusal", "j", "", "P {prompt} A {answer}", "what {answer}?", "a {prompt} b")
    assert q.text == "P what {answer}? A a {prompt} b"
    assert q.about == judge.question("refusal", "k", "", "other", "what {answer}?", "a {prompt} b").about
    assert q.key != judge.question("refusal", "k", "", "P {prompt} A {answer}", "what {answer}?", "a {prompt} b").key


def test_verdicts_are_blind_shuffled_asked_once_and_kept(tmp_path):
    seen = []

    def ask(q):
        seen.append(q)
        return "Verdict: backtracking" if "5" in q.text else "?"

    run = scripted.make(tmp_path, None, ask)
    item = prompts.Item("s:0", "How much?", "", None, ())
    grid = run.cells
    answers = [{"cell": c, "item": item, "sample": 0, "prompt": item.prompt,
                "answer": f"hmm, it may be {i % 6} or more than that, who can tell, let us see again"}
               for i, c in enumerate(grid)]  # fmt: skip
    parse = lambda reply: replies.label(reply, backtracking.LABELS)
    found = run.verdicts("backtracking", answers, parse, "{prompt} {answer}")
    assert len(seen) == 6 and Counter(found) == {
        None: len(grid) - found.count("backtracking"),
        "backtracking": 5 // 2 + 1,
    }
    assert [q.key for q in seen] == sorted(q.key for q in seen) and [q.answer for q in seen] != sorted(
        q.answer for q in seen
    )
    told = json.dumps([q._asdict() for q in seen]) + (tmp_path / "judgements.jsonl").read_text()
    assert not any(word in told for word in ("v_mold", "v_gold", "trained", "alpha", "layer"))
    run.verdicts("backtracking", answers, parse, "{prompt} {answer}")
    assert len(seen) == 6  # kept
    run.judgements.close()
    again = scripted.make(tmp_path, None, ask)
    assert again.verdicts("backtracking", answers, parse, "{prompt} {answer}") == found and len(seen) == 6


def test_replies_belong_to_the_content_of_the_judge(tmp_path):
    """Another judge under the same path is asked again; replies from before there were digests go on, as it says."""
    seen, answer = [], {"prompt": "How much?", "answer": "five"}

    def verdicts(content):
        run = scripted.make(tmp_path, None, lambda q: seen.append(q) or "Verdict: direct answer")
        run.judge = run.judge._replace(name="model DIR", content=lambda: content)
        found = run.verdicts("refusal", [answer] * 2, lambda r: replies.label(r, refusal.LABELS), "{prompt} {answer}")
        run.judgements.close()
        assert found == ["direct answer"] * 2
        return run.notes

    assert verdicts("one") == verdicts("one") == [] and len(seen) == 1
    assert verdicts("two") == [] and len(seen) == 2
    assert verdicts("one") == [] and len(seen) == 2  # still known
    (tmp_path / "judgements.jsonl").unlink()
    verdicts("")  # as an earlier version wrote it
    assert len(seen) == 3
    (note,) = verdicts("one")
    assert "do not name it by content" in note and "model DIR" in note and len(seen) == 3


def test_recorded(tmp_path):
    q = judge.question("refusal", "person", "", "{prompt} {answer}", "Do it", "No.")
    row = {"key": q.key, "about": q.about, "evaluation": "refusal", "reply": "Verdict: direct refusal"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    ask = judge.recorded(tmp_path / "a.jsonl")
    assert list(ask([q])) == [[(q, "Verdict: direct refusal")]]
    cfg = ConfigDict({"kind": "recorded", "path": str(tmp_path / "a.jsonl")})
    before = judge.build(cfg, None, ()).content()
    (tmp_path / "a.jsonl").write_text(json.dumps(row | {"reply": "Verdict: direct answer"}) + "\n")
    assert judge.build(cfg, None, ()).content() != before
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="no reply for 1 of 1 answers of refusal"):
        list(ask([judge.question("refusal", "person", "", "{answer}", "Do it", "Yes.")]))
    with pytest.raises(InputError, match="b.jsonl"):
        judge.recorded(tmp_path / "b.jsonl")


def test_word_counts():
    ask = lambda evaluation, answer: next(
        judge.ask_words([judge.question(evaluation, "words", "", "{answer}", "?", answer)])
    )[0][1]
    assert replies.score(ask("sentiment", "I am glad, so happy, not sad"), -5, 5) == round(5 / 3)
    assert replies.score(ask("sentiment", "the table"), -5, 5) == 0
    assert replies.score(ask("sentiment", "\U0001f9fe 3 ..."), -5, 5) == "nonsensical"
    assert ask("backtracking", "We add. Wait, that\u2019s wrong") == "Verdict: backtracking"
    assert (
        ask("backtracking", "We add and wait") == "Verdict: backtracking"
        and ask("backtracking", "We add") == "Verdict: normal"
    )
    assert ask("refusal", "I can\u2019t do that") == "Verdict: direct refusal"
    assert ask("refusal", "Have you considered a walk?") == "Verdict: indirect refusal"


def test_a_local_judge_is_our_own_model():
    """It thinks where its evaluation asks for it, greedily, and its replies come back by question."""
    asked = []

    class Fake:
        def __init__(self, think):
            self.think = think

        def speak(self, rows, done, longest, temperature):
            asked.append((self.think, longest, temperature, {row.cell for row in rows}))
            yield [(row, row.talk.upper()) for row in rows]

    cfg = ConfigDict({"thinking": True, "thinking_tokens": 99, "max_new_tokens": 7})
    ask = judge.local(Fake, cfg, {"backtracking"})
    for evaluation, want in (("backtracking", (True, 99)), ("refusal", (False, 7))):
        q = judge.question(evaluation, "m", "", "{answer}", "?", "no")
        assert list(ask([q])) == [[(q, "NO")]]
        assert asked[-1] == (*want, 0.0, {cells.zero("judge")})


class Server:
    """An endpoint that answers from a list of (status, text); the last is repeated."""

    def __init__(self, *answers):
        self.answers, self.seen, self.times, outer = list(answers), [], [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, self.headers.get("Authorization"), body))
                outer.times.append(time.monotonic())
                status, text = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.send_response(status)
                self.end_headers()
                reply = {"choices": [{"message": {"content": text}}]} if status == 200 else {"error": text}
                self.wfile.write(json.dumps(reply).encode())

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def served():
    servers = []

    def serve(*answers, **changes):
        servers.append(Server(*answers))
        cfg = ConfigDict(config.evals()["judge"])
        cfg.update(kind="endpoint", url=servers[-1].url, model="m", wait=0.01, per_minute=0.0, key_env="A_KEY")
        cfg.update(changes)
        return servers[-1], cfg

    yield serve
    for s in servers:
        s.server.shutdown()
        s.server.server_close()


def questions(n):
    return [judge.question("refusal", "e", "", "{answer}" * 20, "?", f"answer {i}") for i in range(n)]


def test_endpoint_retries_and_tells_its_cost_first(served, monkeypatch, capsys, tmp_path):
    server, cfg = served((429, "slow"), (503, "down"), (200, "Verdict: direct answer"), price_in=2.0, price_out=8.0)
    monkeypatch.setenv("A_KEY", "sk-secret")
    run = scripted.make(tmp_path, None, None)
    run.judge = judge.build(cfg, None, ())
    item = prompts.Item("s:0", "?", "", None, ())
    answers = [{"cell": run.cells[0], "item": item, "prompt": "?", "answer": f"answer {i}"} for i in range(3)]
    found = run.verdicts("refusal", answers, lambda r: replies.label(r, refusal.LABELS), "{answer}")
    assert found == ["direct answer"] * 3 and len(server.seen) == 5
    path, secret, body = server.seen[0]
    assert path == "/v1/chat/completions" and secret == "Bearer sk-secret" and body["temperature"] == 0
    assert "3 requests" in capsys.readouterr().err
    assert not any("sk-secret" in p.read_text() for p in tmp_path.iterdir())
    read, written, dollars = endpoint.estimate(questions(10), cfg)
    assert (read, written) == (10 * 20 * 8 // 4 + 80, 320) and dollars == pytest.approx((read * 2 + written * 8) / 1e6)


def test_endpoint_fields_are_settable(served):
    """Some models want another name for the limit, and no temperature."""
    server, cfg = served((200, "fine"), body='{"max_tokens": null, "temperature": null, "max_completion_tokens": 9}')
    assert [reply for [(_, reply)] in endpoint.make(cfg)(questions(1))] == ["fine"]
    sent = server.seen[0][2]
    assert sent.keys() == {"model", "messages", "max_completion_tokens"} and sent["max_completion_tokens"] == 9
    for bad in ("[1]", "{", '{"messages": []}'):
        cfg.body = bad
        with pytest.raises(InputError, match="evals.judge.body"):
            endpoint.make(cfg)


def test_endpoint_gives_up_and_keeps_what_it_has(served, tmp_path):
    server, cfg = served((200, "fine"), (500, "down"), retries=2, parallel=1)
    ask, got = endpoint.make(cfg), []
    with pytest.raises(InputError, match="3 attempts failed.*HTTP 500"):
        for batch in ask(questions(3)):
            got += batch
    assert len(got) == 1 and len(server.seen) <= 1 + 3 + 3


def test_endpoint_refusals(served, capsys):
    server, cfg = served((401, "bad key"))
    with pytest.raises(InputError, match="HTTP 401.*bad key"):
        list(endpoint.make(cfg)(questions(1)))
    assert len(server.seen) == 1  # asking again would not help
    _, cfg = served((200, "fine"), price_in=1e6, max_cost=1.0)
    with pytest.raises(InputError, match="max_cost"):
        list(endpoint.make(cfg)(questions(5)))
    with pytest.raises(InputError, match="judge.url"):
        endpoint.make(ConfigDict(config.evals()["judge"]))


def test_endpoint_keeps_the_pace(served):
    server, cfg = served((200, "fine"), per_minute=600.0, parallel=4)
    assert len(list(endpoint.make(cfg)(questions(5)))) == 5
    times = sorted(server.times)
    assert all(b - a > 0.06 for a, b in zip(times, times[1:])) and times[-1] - times[0] > 0.35


def test_agreement_of_two_judges(tmp_path, capsys):
    def book(name, verdicts):
        rows = [{"key": f"{name}{i}", "about": str(i), "evaluation": "refusal" if i < 6 else "sentiment", "verdict": v}
                for i, v in enumerate(verdicts)]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return str(tmp_path / f"{name}.jsonl")

    a = book("a", ["x", "x", "y", "y", None, "x", 1.0, 2.0, 3.0])
    b = book("b", ["x", "y", "y", "y", "x", None, 2.0, 2.0, 4.0, 5.0])
    assert agreement.main([a, b, "--json"]) == 0
    labels, numbers = json.loads(capsys.readouterr().out)
    # x x, x y, y y, y y: 3 of 4 agree; by chance (2/4 * 1/4 + 2/4 * 3/4) = 1/2. Without one of them kappa is 0, 1,
    # 0.4 and 0.4; t of three degrees of freedom.
    half = 3.18244631 * math.sqrt(3 * np.var([0, 1, 0.4, 0.4]))
    assert labels == pytest.approx({"evaluation": "refusal", "both": 6, "only_one": 0, "unparseable": 2,
                                    "percent": 75.0, "kappa": 0.5, "pearson": float("nan"),
                                    "kappa_low": 0.5 - half, "kappa_high": 0.5 + half}, nan_ok=True)  # fmt: skip
    assert (numbers["both"], numbers["only_one"], numbers["percent"]) == (3, 1, pytest.approx(100 / 3))
    assert numbers["pearson"] == pytest.approx(0.8660254)
    assert agreement.main([a, b]) == 0 and "kappa" in capsys.readouterr().out
    assert agreement.main([a]) == 2 and agreement.main([a, str(tmp_path / "none.jsonl")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2 and "none.jsonl" in said[1]


def test_torn_and_broken_journals(tmp_path):
    book = journal.Journal(tmp_path / "a.jsonl")
    book.add([{"key": "x", "v": 1}, {"key": "y", "v": 2}])
    book.close()
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"key": "z", "v"')
    again = journal.Journal(tmp_path / "a.jsonl")
    assert set(again.rows) == {"x", "y"} and "z" not in again
    again.add([{"key": "z", "v": 3}])
    again.close()
    assert [r["v"] for r in journal.read(tmp_path / "a.jsonl").values()] == [1, 2, 3]
    (tmp_path / "b.jsonl").write_text('{"key": "x"}\nnonsense\n')
    with pytest.raises(InputError, match="b.jsonl, line 2"):
        journal.read(tmp_path / "b.jsonl")
