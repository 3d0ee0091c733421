"""The launchers for other machines: dry runs against recorded output, and their loops against stand-in commands."""

import os
import pathlib
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXPECTED = pathlib.Path(__file__).parent / "expected"
ARGUMENTS = ["--config=configs/paper.py:main", "--workdir=/runs/a b", "--config.train.steps=9"]
TOKEN = "hf_secret"
TPU = {"TPU": "mine", "ACCELERATOR": "v6e-32", "ZONE": "us-east5-b"}
JOBSET = {"NAME": "main", "SOURCE": "https://host/repository", "CLAIM": "runs", "COMMIT": "0123abc"}
SLICE = JOBSET | {"ACCELERATOR": "v6e", "TOPOLOGY": "4x8"}
SSH = {"HOSTS": "me@a me@b me@c"}
DRY = {  # recorded output -> script, settings
    "ssh": ("ssh.sh", SSH),
    "tpu": ("tpu.sh", TPU),
    "tpu_spot": (
        "tpu.sh",
        TPU | {"ACCELERATOR": "v5e-8", "SPOT": "1", "PROJECT": "p", "WELFARE_SETUP": "mount /runs"},
    ),
    "slurm": ("slurm.sh", {"NODES": "2"}),
    "jobset_tpu": ("jobset.sh", SLICE | {"SECRET": "hub", "WELFARE_SETUP": "nproc"}),
    "jobset_gpu": ("jobset.sh", JOBSET | {"ACCELERATOR": "nvidia-h100-80gb", "HOSTS": "2"}),
    "sky_gpu": ("sky.sh", {"ACCELERATORS": "H100:8", "NODES": "2", "BUCKET": "gs://mine", "SECRETS": "HF_TOKEN"}),
    "sky_tpu": ("sky.sh", {"ACCELERATORS": "tpu-v6e-32", "BUCKET": "gs://mine", "SPOT": "1"}),
}


def call(script, *arguments, cwd=ROOT, **env):
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG")}
    return subprocess.run(
        ["bash", str(ROOT / "launchers" / script), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60,
        env=keep | {"HOME": str(cwd), "TMPDIR": "/tmp"} | env, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("name", DRY)
def test_dry_run(name, tmp_path):
    """Nothing is started, and what would be is printed; the secrets' file is named, never read."""
    script, settings = DRY[name]
    secrets = tmp_path / "secrets"
    secrets.write_text(f"HF_TOKEN={TOKEN}\n")
    own = {} if script in ("sky.sh", "jobset.sh") else {"WELFARE_SECRETS": str(secrets)}
    done = call(script, "--dry-run", *ARGUMENTS, cwd=tmp_path, **settings, **own, HF_TOKEN=TOKEN)
    assert done.returncode == 0 and not done.stderr
    said = done.stdout.replace(str(ROOT), "/checkout").replace(str(tmp_path), "/home/me")
    recorded = EXPECTED / f"{name}.txt"
    if "RECORD" in os.environ:
        recorded.write_text(said)
    assert said == recorded.read_text()
    assert TOKEN not in said and [p.name for p in tmp_path.iterdir()] == ["secrets"]


@pytest.mark.parametrize("name", ["ssh", "tpu", "slurm", "jobset_tpu", "sky_gpu"])
def test_a_dry_run_may_be_asked_for_anywhere_and_a_bucket_is_refused(name, tmp_path):
    script, settings = DRY[name]
    done = call(script, *ARGUMENTS, "--dry-run", cwd=tmp_path, **settings)
    assert done.returncode == 0 and done.stdout == call(script, "--dry-run", *ARGUMENTS, **settings).stdout
    done = call(script, "--config=configs/paper.py", "--workdir=gs://mine/run", cwd=tmp_path, **settings)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and not done.stdout and "--workdir=gs://mine/run: " in line and "mount" in line


def manifest(name):
    return yaml.safe_load((EXPECTED / f"{name}.txt").read_text())


@pytest.mark.parametrize(
    ("name", "hosts", "limit"), [("jobset_tpu", 8, "google.com/tpu"), ("jobset_gpu", 2, "nvidia.com/gpu")]
)
def test_jobset_is_one_pod_a_host(name, hosts, limit):
    job = manifest(name)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == hosts and job["template"]["spec"]["restartPolicy"] == "Never"
    main = job["template"]["spec"]["containers"][0]
    assert main["resources"]["limits"] == {limit: 4 if hosts == 8 else 8}
    script = main["command"][2]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    shown = script.splitlines()[-1].replace("exec bash launchers/host.sh", "printf '%s\\n'")
    said = subprocess.run(
        ["bash", "-c", shown], capture_output=True, text=True, env={"JOB_COMPLETION_INDEX": "1"}
    ).stdout
    assert said.splitlines()[:3] == ARGUMENTS and "distributed.coordinator=" in said
    assert ("distributed.process=1" in said) == (name == "jobset_gpu")


@pytest.mark.parametrize("name", ["sky_gpu", "sky_tpu"])
def test_sky_tasks_start_the_command(name):
    task = yaml.safe_load((ROOT / "launchers" / f"{name}.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    node = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    env = node | {"ARGUMENTS": "--config=c '--workdir=/runs/a b'", "PATH": os.environ["PATH"]}
    script = 'bash() { printf "%s\\n" "$@"; }\n' + task["run"]
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env).stdout.splitlines()
    assert said[:3] == ["launchers/host.sh", "--config=c", "--workdir=/runs/a b"]
    if name == "sky_gpu":
        assert said[3:] == [
            "--config.distributed.coordinator=10.0.0.1:8476", "--config.distributed.processes=2",
            "--config.distributed.process=1",
        ]  # fmt: skip
    else:
        assert said[3:] == ["--config.distributed.coordinator=auto"]


REFUSED = {
    "ssh": ("ssh.sh", {}, "HOSTS"),
    "tpu": ("tpu.sh", {k: v for k, v in TPU.items() if k != "ZONE"}, "ZONE"),
    "tpu_kind": ("tpu.sh", TPU | {"ACCELERATOR": "8xH100"}, "8xH100"),
    "jobset": ("jobset.sh", JOBSET, "ACCELERATOR"),
    "jobset_shape": ("jobset.sh", SLICE | {"TOPOLOGY": "32 chips"}, "32 chips"),
    "sky": ("sky.sh", {"ACCELERATORS": "H100:8"}, "BUCKET"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_missing_settings_are_refused_in_one_line(case):
    script, settings, said = REFUSED[case]
    done = call(script, "--dry-run", *ARGUMENTS, **settings)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert said in line


@pytest.fixture
def commands(tmp_path):
    """`commands(name, script)`: a command of that name that first logs its arguments to `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def add(name, script=""):
        path = folder / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >>"{tmp_path}/calls"\n{script}\n')
        path.chmod(0o755)

    for name in ("sleep", "scp", "tar"):
        add(name)
    add.env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    add.calls = lambda name: [c for c in (tmp_path / "calls").read_text().splitlines() if c.split()[0] == name]
    return add


# Ends with the next line of `statuses`; the first host's with 0 once there are none left.
NEXT = """
exec 9>"$HOME/lock"; flock 9
status=$(head -n 1 "$HOME/statuses"); sed -i 1d "$HOME/statuses"
"""


@pytest.mark.parametrize(
    ("statuses", "rounds", "wanted"),
    [([0, 0, 0], 1, 0), ([75, 75, 75, 0, 0, 0], 2, 0), ([255, 75, 137, 75, 0, 75, 0, 0, 0], 3, 0), ([2, 75, 2], 1, 2),
     ([75, 75, 1], 1, 1), ([130, 130, 130], 1, 130)],
)  # fmt: skip
def test_ssh_starts_again_what_was_interrupted(statuses, rounds, wanted, commands, tmp_path):
    (tmp_path / "statuses").write_text("".join(f"{s}\n" for s in statuses))
    commands("ssh", NEXT + 'case "$*" in *process=0*) echo "step" ;; esac; exit "${status:-0}"')
    done = call("ssh.sh", *ARGUMENTS, cwd=tmp_path, **SSH, **commands.env)
    assert done.returncode == wanted, done.stderr
    assert len(commands.calls("ssh")) == 3 * rounds and done.stdout == "step\n" * rounds
    assert {p.name for p in (tmp_path / "logs").iterdir()} == {"me@b.log", "me@c.log"}


def test_ssh_gives_up_in_the_end(commands, tmp_path):
    commands("ssh", "exit 75")
    done = call("ssh.sh", *ARGUMENTS, cwd=tmp_path, **SSH, **commands.env, WELFARE_RESTARTS="2")
    assert done.returncode == 2 and len(commands.calls("ssh")) == 9 and "2 times" in done.stderr


GCLOUD = """
case "$*" in
  *describe*) cat "$HOME/state" 2>/dev/null || exit 1 ;;
  *" create "*) echo ACTIVE >"$HOME/state" ;;
  *" delete "*) rm "$HOME/state" ;;
  *" ssh "*)
    read -r status after <"$HOME/statuses"; sed -i 1d "$HOME/statuses"
    for i in 0 1; do printf 'step\\nstatus %s\\r\\n' "$status" >>"$HOME/logs/mine/$i.log"; done
    /bin/sleep 0.3
    [ -z "$after" ] || echo "$after" >"$HOME/state"
    exit $((status ? 1 : 0)) ;;
esac
"""


@pytest.mark.parametrize(
    ("rounds", "made", "wanted"),
    [(["0"], 1, 0), (["75", "0"], 1, 0), (["75 SUSPENDED", "143 FAILED", "0"], 3, 0), (["2"], 1, 2)],
)
def test_tpu_asks_again_for_what_was_taken_away(rounds, made, wanted, commands, tmp_path):
    (tmp_path / "statuses").write_text("".join(f"{r}\n" for r in rounds))
    commands("gcloud", GCLOUD)
    commands("sleep", "[ $1 = 30 ] || /bin/sleep 0.1")
    done = call("tpu.sh", *ARGUMENTS, cwd=tmp_path, **TPU, **commands.env)
    assert done.returncode == wanted, done.stderr
    calls = commands.calls("gcloud")
    assert sum(" create " in c for c in calls) == made and sum(" delete " in c for c in calls) == made - 1
    assert sum(" ssh " in c for c in calls) == len(rounds) and "step" in done.stdout


def test_tpu_gives_back(commands, tmp_path):
    commands("gcloud")
    assert call("tpu.sh", "--delete", cwd=tmp_path, **TPU, **commands.env).returncode == 0
    assert [c.split()[4] for c in commands.calls("gcloud")] == ["delete"]


@pytest.mark.parametrize(
    ("status", "count", "again"), [(75, 0, True), (137, 3, True), (75, 100, False), (2, 0, False), (0, 0, False)]
)
def test_slurm_requeues_what_was_interrupted(status, count, again, commands, tmp_path):
    for name, script in (("srun", f"exit {status}"), ("scontrol", "")):
        commands(name, script)
    job = call("slurm.sh", "--dry-run", *ARGUMENTS, cwd=tmp_path).stdout.split("\n", 1)[1].rsplit("END", 1)[0]
    job = job.replace("&& prepare", "&& :")  # whose own tests are beside this file
    env = commands.env | {"HOME": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(count)}
    done = subprocess.run(["bash", "-c", job], env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    said = (tmp_path / "calls").read_text()
    assert ("scontrol requeue 7" in said) == again and "coordinator=auto" in said


def test_jobset_follows_the_first_pod_to_the_end(commands, tmp_path):
    commands("kubectl", """
case "$*" in
  *apply*) cat >"$HOME/applied" ;;
  *logs*) echo step; echo x >>"$HOME/rounds" ;;
  *get*) [ "$(wc -l <"$HOME/rounds" 2>/dev/null)" != 2 ] || echo Completed ;;
esac""")  # fmt: skip
    done = call("jobset.sh", *ARGUMENTS, cwd=tmp_path, **SLICE, **commands.env)
    assert done.returncode == 0 and done.stdout == "step\nstep\n", done.stderr
    assert yaml.safe_load((tmp_path / "applied").read_text())["metadata"]["name"] == "main"


def test_host_takes_tokens_from_a_file(tmp_path):
    """As environment, for the program alone; the file is closed to others."""
    for name in ("host.sh", "local.sh"):
        (tmp_path / name).write_text((ROOT / "launchers" / name).read_text())
    (tmp_path / "local.sh").write_text('echo "$HF_TOKEN $*"')
    secrets = tmp_path / ".welfare_env"
    secrets.write_text(f"HF_TOKEN={TOKEN}\n")
    secrets.chmod(0o644)
    said = subprocess.run(
        ["bash", str(tmp_path / "host.sh"), "--a=b"], env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout == f"{TOKEN} --a=b\n" and secrets.stat().st_mode & 0o777 == 0o600
