"""GRPO on prompts with a reward of your own: python examples/reward.py [folder or hub name] [workdir]"""

import json
import sys

import welfare_jax as wj

GLAD = {"glad", "good", "great", "happy", "joy", "pleased", "proud", "well"}


def reward(prompts, answers):
    """A number for every answer: here 1 where it has a glad word, else 0."""
    return [float(any(word.strip(".,!?").lower() in GLAD for word in answer.split())) for answer in answers]


lm = wj.load(sys.argv[1] if len(sys.argv) > 1 else "tiny")
workdir = sys.argv[2] if len(sys.argv) > 2 else "runs/reward"
prompts = ["How is it going?", "How do you feel?", "What happened?", "Did you reach it?"]
trained = wj.train_on_reward(lm, prompts, reward, workdir, steps=15, max_new_tokens=8, lr=1e-3)

for prompt in prompts:
    before, after = (wj.chat(model, prompt, max_new_tokens=8) for model in (lm, trained))
    print(f"{prompt} {before!r} -> {after!r}")
rewards = [json.loads(line)["reward"] for line in open(f"{workdir}/metrics.jsonl")]
print(f"reward {sum(rewards[:3]) / 3:.2f} -> {sum(rewards[-3:]) / 3:.2f}")  # means of three steps
