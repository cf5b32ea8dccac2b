"""Studies on a cluster: what sbatch is given, what a run does there, and a real Slurm where one starts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import submitit

from common.interrupt import StopRequest
from study import cluster
from study.plan import Command, Study, parse_methods
from study.runner import remaining

ROOT = Path(__file__).resolve().parents[2]

# writes what a script of the study would, and says what it was told; `slow` waits for a signal once
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
name, folder = (sys.argv[sys.argv.index(flag) + 1] for flag in ("--name", "--dest"))
kind = Path(sys.argv[0]).stem.split("_")[0]
Path(folder).mkdir(parents=True, exist_ok=True)
with open(Path(folder).parent / "calls", "a") as file:
    file.write(f"{kind} {name} {os.environ.get('WORLD_SIZE', 1)}\\n")
waited = Path(folder) / f"{name}.waited"
if kind == "launch" and "slow" in name and not waited.exists():
    waited.touch()
    def stop(number, frame):
        (Path(folder) / f"{name}.saved").touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    time.sleep(60)
ending = {"create": f"{name}.pth", "launch": f"final_{name}.pth", "eval": f"{name}.json"}[kind]
(Path(folder) / ending).touch()
"""


def jobs(dest, methods="snip,disparse_pt", seeds=(0,), prefix=""):
    """A study's runs whose commands are harmless scripts."""
    study = Study("nyuv2", dest / "study", tuple(parse_methods(methods)), (90.0,), seeds)
    found = []
    for job in study.jobs():
        commands = []
        for command in job.commands:
            script = dest / command.script
            script.write_text(SCRIPT)
            commands.append(Command(command.kind, str(script), command.words))
        found.append(replace(job, commands=tuple(commands)))
    return found


# ---------------------------------------------------------------- the script that is handed in
@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Stands for Slurm's commands; the folder where each script that was handed in lies, numbered."""
    tools, handed = tmp_path / "bin", tmp_path / "handed"
    tools.mkdir()
    handed.mkdir()
    fake = f'#!/bin/sh\nn=$(ls {handed} | wc -l)\ncp "$1" {handed}/$n\necho "Submitted batch job 7$n"\n'
    for name, text in (("sbatch", fake), ("srun", "#!/bin/sh\n"), ("sacct", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return handed


def flags(script):
    lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if "#SBATCH" in line]
    return dict(line.partition("=")[::2] for line in lines)


def test_sbatch_gets_arrays_with_a_limit_and_the_dependency(sbatch, tmp_path):
    executor = cluster.slurm(tmp_path / "study", 3, None, {"partition": "gpu", "time": "600"})
    handed = cluster.hand_in(jobs(tmp_path, seeds=(0, 1)), tmp_path / "study", executor)
    first, second = (flags(script) for script in sorted(sbatch.iterdir()))
    assert (first["array"], second["array"]) == ("0-1%2", "0-3%3")  # two dense networks, then four runs
    assert "dependency" not in first and second["dependency"] == "afterany:70"
    assert (first["partition"], first["time"]) == ("gpu", "600") and "gpus-per-node" not in first
    assert first["signal"].startswith("USR2@") and first["open-mode"] == "append"  # to be saved and requeued
    assert [one.job_id for _, one in handed] == ["70_0", "70_1", "71_0", "71_1", "71_2", "71_3"]
    assert [job.name for job, _ in handed][:3] == ["nyuv2_baseline", "nyuv2_baseline", "nyuv2_snip_90"]


@pytest.mark.parametrize("gpus", [1, 4])
def test_without_a_shared_dense_network_there_is_one_array(gpus, sbatch, tmp_path):
    executor = cluster.slurm(tmp_path / "study", 2, gpus, {})
    cluster.hand_in(jobs(tmp_path, "snip"), tmp_path / "study", executor)
    (only,) = (flags(script) for script in sbatch.iterdir())
    assert (only["array"], only["gpus-per-node"]) == ("0-1%2", str(gpus))


def test_what_is_finished_is_not_handed_in_again(sbatch, tmp_path):
    runs = jobs(tmp_path)
    for job in runs:
        job.folder.mkdir(parents=True, exist_ok=True)
        job.result.touch()
    assert cluster.hand_in(runs, tmp_path / "study", cluster.slurm(tmp_path / "study", 2, 1, {})) == []
    assert not list(sbatch.iterdir())


def test_a_wrong_setting_and_no_slurm_are_told(sbatch, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--slurm: .*partiton"):
        cluster.slurm(tmp_path, 1, 1, {"partiton": "gpu"})
    tools = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(tools))
    (tools / "sbatch").unlink()
    with pytest.raises(ValueError, match=r"there is no Slurm here \(no `sbatch`\)"):
        cluster.slurm(tmp_path, 1, 1, {})
    (tools / "srun").unlink()
    with pytest.raises(ValueError, match=r"there is no Slurm here \(no `srun`\)"):
        cluster.slurm(tmp_path, 1, 1, {})


PARTITION = "invalid partition specified: gup"
REFUSED = f"""
echo "sbatch: error: {PARTITION}" >&2
echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
exit 3
"""
WORDS = (
    f"--executor slurm: sbatch took no runs and said: error: {PARTITION} "
    "sbatch: error: Batch job submission failed: Invalid partition name specified"
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (REFUSED, WORDS),
        ("exit 1", "--executor slurm: sbatch took no runs and said: nothing"),
        (
            "echo queued",
            '--executor slurm: sbatch took no runs and said: Could not make sense of sbatch output "queued" '
            "Job instance will not be able to fetch status (you may however set the job job_id manually if "
            "needed)",
        ),
    ],
)
def test_what_sbatch_refuses_is_one_sentence_with_its_words(sbatch, tmp_path, capsys, text, sentence):
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\n{text}\n")
    executor = cluster.slurm(tmp_path / "study", 1, 1, {"partition": "gup"})
    with pytest.raises(ValueError) as caught:
        cluster.hand_in(jobs(tmp_path), tmp_path / "study", executor)
    assert str(caught.value) == sentence
    assert capsys.readouterr().err == ""


def test_a_second_array_that_is_refused_names_the_first(sbatch, tmp_path):
    script = tmp_path / "bin" / "sbatch"
    script.write_text(f"{script.read_text()}[ $n = 0 ] || {{\n{REFUSED}}}\n")
    executor = cluster.slurm(tmp_path / "study", 1, 1, {})
    with pytest.raises(ValueError) as caught:
        cluster.hand_in(jobs(tmp_path), tmp_path / "study", executor)
    assert str(caught.value) == f"{WORDS}; queued already: 70 (`scancel` takes them out)"


def test_the_command_ends_with_the_sentence_and_status_2(sbatch, tmp_path):
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\n{REFUSED}")
    words = ["--methods", "snip", "--seeds", "1", "--dest", tmp_path / "study", "--executor", "slurm"]
    ended = subprocess.run(
        [sys.executable, ROOT / "reproduce.py", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert (ended.returncode, ended.stderr) == (2, f"error: {WORDS}\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--executor", "pbs"], "--executor 'pbs' is not slurm"),
        (["--slurm", "time=3"], "--slurm is for a cluster: it needs --executor slurm"),
        (["--gpus", "1"], "--gpus is for a cluster"),
        (["--executor", "slurm", "--slurm", "time"], "--slurm 'time' is not KEY=VALUE"),
        (["--jobs", "0"], "--jobs '0' is not a whole number of at least 1"),
    ],
)
def test_flags_that_do_not_go_together(words, sentence, monkeypatch):
    import reproduce

    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--methods", "snip", *words])
    with pytest.raises(ValueError, match=sentence.replace("'", ".")):
        reproduce.work(reproduce.arguments(), StopRequest())


class Looks:
    """Stands for claim_and_run: another process is at the run for two looks; `at` is called at each."""

    def __init__(self, at=lambda: None):
        self.count, self.at = 0, at

    def __call__(self, job, times, stop, threads, devices):
        self.count += 1
        self.at()
        return (None, None) if self.count < 3 else ("finished before", None)


@pytest.mark.parametrize(("awaited", "looks", "outcome"), [(True, 3, "finished before"), (False, 1, None)])
def test_a_dense_network_that_others_need_is_waited_for(awaited, looks, outcome, tmp_path, monkeypatch):
    claims = Looks()
    monkeypatch.setattr(cluster, "claim_and_run", claims)
    monkeypatch.setattr(cluster, "TICK", 0.01)
    run = jobs(tmp_path)[0]
    assert cluster.Element(run, tmp_path / "study", awaited=awaited)() == (outcome, None)
    assert claims.count == looks


def test_who_waits_for_another_process_can_be_told_to_stop(tmp_path, monkeypatch):
    claims = Looks(at=lambda: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(cluster, "claim_and_run", claims)
    with pytest.raises(cluster.Stopped) as stopped:
        cluster.Element(jobs(tmp_path)[0], tmp_path / "study", awaited=True)()
    assert (stopped.value.number, claims.count) == (signal.SIGTERM, 1)


def test_what_others_need_is_what_is_waited_for(sbatch, tmp_path, monkeypatch):
    handed = []
    submit = submitit.SlurmExecutor.submit
    monkeypatch.setattr(
        submitit.SlurmExecutor, "submit", lambda self, one: (handed.append(one), submit(self, one))[1]
    )
    runs = [*jobs(tmp_path, seeds=(0,)), *jobs(tmp_path, "snip", seeds=(1,))]
    cluster.hand_in(runs, tmp_path / "study", cluster.slurm(tmp_path / "study", 1, 1, {}))
    assert [(one.job.seed, one.job.name) for one in handed if one.awaited] == [(0, "nyuv2_baseline")]
    assert len(handed) == len(runs)


# --------------------------------------------------------------------------- carried out
@pytest.mark.slow
def test_a_study_by_a_local_executor(tmp_path):
    runs, lines = jobs(tmp_path), []
    executor = submitit.LocalExecutor(folder=tmp_path / "logs")
    handed = cluster.hand_in(runs, tmp_path / "study", executor)
    assert cluster.follow(handed, lines.append, StopRequest()) == []
    assert not [job for job in runs if remaining(job)]
    calls = (tmp_path / "study" / "calls").read_text().splitlines()
    expected = [f"{c.kind} {job.name} 1" for job in runs for c in job.commands]
    assert sorted(calls) == sorted(expected)
    assert calls.index("eval nyuv2_baseline 1") < calls.index("create nyuv2_disparse_pt_90 1")
    assert len(lines) == 3 and lines[-1].endswith("0 to go")


@pytest.mark.slow
def test_several_devices_run_through_torchrun(tmp_path):
    (run, *_) = jobs(tmp_path, "snip")
    outcome, trouble = cluster.Element(run, tmp_path / "study", devices=2)()
    assert trouble is None and outcome.startswith("finished in")
    calls = (tmp_path / "study" / "calls").read_text().splitlines()
    assert sorted(calls) == ["eval nyuv2_baseline 2"] * 2 + ["launch nyuv2_baseline 2"] * 2


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of one node, started for these tests; skipped where it cannot be."""
    tools = ("munged", "slurmctld", "slurmd", "sbatch")
    found = {tool: shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") for tool in tools}
    if not all(found.values()) or os.geteuid():
        pytest.skip("no Slurm, or not root")
    home, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().split(".")[0]
    home.parent.chmod(0o755)
    home.chmod(0o755)
    (home / "munge.key").write_bytes(os.urandom(32))
    (home / "munge.key").chmod(0o600)
    settings = {
        "ClusterName": "one",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={home}/munge.socket",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "StateSaveLocation": f"{home}/ctld",
        "SlurmdSpoolDir": f"{home}/d",
        "SlurmctldPidFile": f"{home}/ctld.pid",
        "SlurmdPidFile": f"{home}/d.pid",
        "SlurmctldPort": "26817",
        "SlurmdPort": "26818",
        "SlurmdParameters": "config_overrides",
        "MpiDefault": "none",
        "ReturnToService": "2",
        "SchedulerParameters": "sched_interval=2",
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN",
        "PartitionName": f"main Nodes={host} Default=YES MaxTime=INFINITE State=UP",
    }
    for folder in ("ctld", "d"):
        (home / folder).mkdir()
    (home / "slurm.conf").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    os.environ["SLURM_CONF"] = str(home / "slurm.conf")
    parts = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{flag}={home}/munge.{ending}" for flag, ending in parts.items()]
    daemons = [
        subprocess.Popen([found["munged"], "--foreground", "--force", *munge]),
        subprocess.Popen([found["slurmctld"], "-D", "-f", home / "slurm.conf"], stderr=subprocess.DEVNULL),
        subprocess.Popen([found["slurmd"], "-D", "-f", home / "slurm.conf"], stderr=subprocess.DEVNULL),
    ]
    try:
        until = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout:
            if time.monotonic() > until:
                pytest.skip("Slurm did not come up")
            time.sleep(0.5)
        yield home
    finally:
        subprocess.run(["scancel", "--user", "root"], capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        del os.environ["SLURM_CONF"]


@pytest.mark.slow
def test_a_study_on_a_real_slurm(slurm, tmp_path):
    runs, lines = jobs(tmp_path, "snip,disparse_pt,rigl"), []
    executor = cluster.slurm(tmp_path / "study", 2, 1, {"time": "10"})
    handed = cluster.hand_in(runs, tmp_path / "study", executor)
    assert cluster.follow(handed, lines.append, StopRequest()) == []
    calls = (tmp_path / "study" / "calls").read_text().splitlines()
    assert sorted(calls) == sorted(f"{c.kind} {job.name} 1" for job in runs for c in job.commands)
    assert calls[0] == "launch nyuv2_baseline 1"
    assert not list((tmp_path / "study").rglob("*.claim"))


@pytest.mark.slow
def test_a_preempted_run_is_queued_again_and_goes_on(slurm, tmp_path):
    (run, *_) = jobs(tmp_path, "snip")
    slow = "nyuv2_slow"
    words = [slow if word == run.name else word for word in run.commands[0].words]
    commands = tuple(replace(command, words=tuple(words)) for command in run.commands)
    run = replace(run, name=slow, commands=commands)
    executor = cluster.slurm(tmp_path / "study", 1, 1, {"time": "10"})
    ((_, one),) = cluster.hand_in([run], tmp_path / "study", executor)
    waited = run.folder / f"{slow}.waited"
    until = time.monotonic() + 120
    while not waited.exists() and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(1)  # the script has said that it waits; now it does
    subprocess.run(["scancel", "--signal=USR2", one.job_id], check=True)
    lines = []
    assert cluster.follow([(run, one)], lines.append, StopRequest()) == []
    assert (run.folder / f"{slow}.saved").exists() and run.result.exists()
    assert (tmp_path / "study" / "calls").read_text().splitlines() == [
        "launch nyuv2_slow 1",
        "launch nyuv2_slow 1",
        "eval nyuv2_slow 1",
    ]
    assert signal.SIGUSR2.name in one.stderr() + one.stdout()


@pytest.mark.slow
def test_a_partition_that_a_real_slurm_lacks(slurm, tmp_path):
    executor = cluster.slurm(tmp_path / "study", 1, 1, {"partition": "gup"})
    with pytest.raises(ValueError, match="sbatch took no runs and said: error: invalid partition .*gup"):
        cluster.hand_in(jobs(tmp_path, "snip"), tmp_path / "study", executor)
