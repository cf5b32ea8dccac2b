"""A study: its plan, its continuation, and one small study from start to table."""

import json
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from common.interrupt import StopRequest
from common.lock import Held
from configs.arguments import parse_assignments
from configs.load import load
from configs.schema import Data
from study import isolated, runner
from study.isolated import Stopped, last_line, run_script
from study.plan import Study, parse_variant
from study.runner import Times, check, settings
from tests.comparison.examples import write
from tests.study.plans import study

ROOT = Path(__file__).resolve().parents[1]


class Scripts:
    """Stands for the scripts: notes each call and writes the file that says it is done."""

    def __init__(self, broken=()):
        self.calls, self.broken = [], broken

    def __call__(self, script, words, log, stop, threads, devices=1):
        name, folder = words[words.index("--name") + 1], Path(words[words.index("--dest") + 1])
        self.calls.append((script.split("_")[0], folder.name, name))
        if (script.split("_")[0], name) in self.broken:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("step 1\rstep 2\nerror: no\n")
            return 2
        written = {"create": f"{name}.pth", "launch": f"final_{name}.pth", "eval": f"{name}.json"}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / written[script.split("_")[0]]).touch()
        return 0


def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    jobs = study(tmp_path, "snip,rigl", seeds=(0,)).jobs()
    scripts = Scripts(broken=[("launch", "nyuv2_snip_90")])
    monkeypatch.setattr(runner, "run_script", scripts)
    lines = []
    failed = runner.run_jobs(jobs, Times(tmp_path), lines.append, StopRequest())
    assert [job.name for job in failed] == ["nyuv2_snip_90"]
    assert "launch_training.py" in lines[1] and re.search(
        r": error: no; \S+ s done, about \S+ s to go", lines[1]
    )
    assert [kind for kind, _, name in scripts.calls if name == "nyuv2_rigl_90"] == ["launch", "eval"]

    # what it has made is looked at again, by the script that made it, and counts no second time
    scripts.broken, scripts.calls, began = (), [], []
    again = runner.run_jobs(jobs, Times(tmp_path), lines.append, StopRequest(), began=began.append)
    assert again == []
    assert scripts.calls == [(kind, "seed0", "nyuv2_snip_90") for kind in ("create", "launch", "eval")]
    assert re.fullmatch(r"\[2/3\] seed 0 nyuv2_snip_90: launch, eval, about \S+ s", began[0])
    measured = [row["kind"] for row in Times(tmp_path).rows if row["name"] == "nyuv2_snip_90"]
    assert measured == ["create", "launch", "eval"]
    scripts.calls.clear()
    assert runner.run_jobs(jobs, Times(tmp_path), lines.append, StopRequest()) == []
    assert scripts.calls == []
    assert lines[-1] == "[3/3] seed 0 nyuv2_rigl_90: finished before"


def test_files_of_a_run_without_a_result_are_taken_only_by_the_scripts_leave(tmp_path, monkeypatch):
    """The scripts refuse what was made with other settings."""
    job = study(tmp_path, "snip", seeds=(0,)).jobs()[1]
    job.folder.mkdir(parents=True)
    for file in ("nyuv2_snip_90.pth", "final_nyuv2_snip_90.pth"):
        (job.folder / file).touch()
    scripts = Scripts(broken=[("create", "nyuv2_snip_90")])
    monkeypatch.setattr(runner, "run_script", scripts)
    lines, times = [], Times(tmp_path)
    assert "snip_90  eval   unknown" in runner.plan_table([job], times)
    assert runner.run_jobs([job], times, lines.append, StopRequest()) == [job]
    assert scripts.calls == [("create", "seed0", "nyuv2_snip_90")]
    assert times.rows == [] and "failed in create_pruned_net.py" in lines[0]


def test_a_run_that_starts_from_the_dense_network_waits_for_it(tmp_path, monkeypatch):
    jobs = study(tmp_path, "disparse_pt,snip", seeds=(0,)).jobs()
    scripts = Scripts()
    monkeypatch.setattr(runner, "run_script", scripts)
    monkeypatch.setattr(runner, "WAIT", 0.01)
    elsewhere = {"nyuv2_baseline"}

    def someone_has(folder, name, ending):
        if name in elsewhere:
            raise Held(name, None)
        return nullcontext()

    def say(line):
        lines.append(line)
        elsewhere.clear()  # the other process finishes the dense network without its result: it died

    lines = []
    monkeypatch.setattr(runner, "locked", someone_has)
    assert runner.run_jobs(jobs, Times(tmp_path), say, StopRequest()) == []
    assert [line.split(" ")[3] for line in lines] == [
        "nyuv2_snip_90:",
        "nyuv2_baseline:",
        "nyuv2_disparse_pt_90:",
    ]


def share(dest):
    """One of several processes at the same study; each notes the commands that it ran."""

    def run(script, words, log, stop, threads, devices=1):
        status = Scripts()(script, words, log, stop, threads, devices)
        time.sleep(0.02)
        with open(dest / f"calls.{os.getpid()}", "a") as file:
            file.write(f"{script} {words[words.index('--dest') + 1]} {words[words.index('--name') + 1]}\n")
        return status

    runner.run_script, runner.WAIT = run, 0.01
    lines = []
    failed = runner.run_jobs(
        study(dest, "snip,rigl,disparse_pt,lth").jobs(), Times(dest), lines.append, StopRequest()
    )
    os._exit(0 if not failed and len(lines) == 10 else 1)


def test_runs_side_by_side(tmp_path, monkeypatch):
    """Two at once, never more; the dense network before what starts from it; each run once."""
    now, most, order, guard = [], [], [], threading.Lock()
    scripts = Scripts()

    def run(script, words, log, stop, threads, devices=1):
        name = words[words.index("--name") + 1]
        with guard:
            now.append(name)
            most.append(len(now))
            order.append((script.split("_")[0], name))
        time.sleep(0.05)
        with guard:
            now.remove(name)
            assert threads == 3
            return scripts(script, words, log, stop, threads, devices)

    monkeypatch.setattr(runner, "run_script", run)
    jobs = study(tmp_path, "snip,disparse_pt,rigl", seeds=(0, 1)).jobs()
    times = Times(tmp_path)
    assert runner.run_jobs(jobs, times, str, StopRequest(), at_once=2, threads=3) == []
    assert max(most) == 2
    commands = [(c.script.split("_")[0], j.name) for j in jobs for c in j.commands]
    assert sorted(order) == sorted(commands) and len(Times(tmp_path).rows) == len(commands)
    assert len(times.rows) == len(commands)
    for seed in (0, 1):
        folder = [name for _, where, name in scripts.calls if where == f"seed{seed}"]
        assert folder.index("nyuv2_disparse_pt_90") > max(
            place for place, name in enumerate(folder) if name == "nyuv2_baseline"
        )


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [isolated.threads_of(at_once) for at_once in (1, 2, 3, 16)] == [None, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert isolated.threads_of(3) is None


def test_three_studies_over_one_folder_share_the_runs(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=share, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    calls = [path.read_text().splitlines() for path in tmp_path.glob("calls.*")]
    every = [f"{c.script} {j.folder} {j.name}" for j in study(tmp_path, "snip,rigl,disparse_pt,lth").jobs()
             for c in j.commands]  # fmt: skip
    assert sorted(sum(calls, [])) == sorted(every)  # each once
    assert len(calls) == 3
    assert len(Times(tmp_path).rows) == len(every)
    assert not list(tmp_path.rglob(".*.claim"))


def test_damaged_times_are_left_out(tmp_path):
    good = "0,nyuv2_snip_90,snip,full,launch,12.5"
    bad = ["0,x,snip,full,launch,soon", "0,x", "\0\0", good + "e999"]
    rows = ["seed,name,method,training,kind,seconds", good, *bad]
    (tmp_path / "times.csv").write_text("\n".join(rows))
    assert Times(tmp_path).total == 12.5
    (tmp_path / "times.csv").write_bytes(b"\xff\xfe\0\0nothing")
    assert Times(tmp_path).total == 0


FOREIGN = ["", "{", "[]", "{}", '{"config": 1}', '{"config": {"run": 1}}', "[" * 100_000]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_damaged_result_is_named(tmp_path, content):
    job = study(tmp_path).jobs()[0]
    job.folder.mkdir(parents=True)
    job.result.write_text(content)
    with pytest.raises(ValueError, match="nyuv2_baseline.json is not a result of eval_pruned_net.py"):
        runner.check(job)


def test_estimates_come_from_measured_runs(tmp_path):
    baseline, snip, rigl, tuned = study(tmp_path, "snip,rigl,disparse_pt", seeds=(0,)).jobs()
    times = Times(tmp_path)
    assert times.estimate(snip, snip.commands[1]) is None
    times.add(snip, snip.commands[1], 10.0)
    times.add(baseline, baseline.commands[0], 20.0)
    again = Times(tmp_path)
    assert again.total == 30.0
    assert again.estimate(snip, snip.commands[1]) == 10.0  # its own
    assert again.estimate(rigl, rigl.commands[0]) == 15.0  # of others as long
    assert again.estimate(tuned, tuned.commands[1]) is None  # fine-tuning is shorter
    table = runner.plan_table([baseline, rigl, tuned], again)
    assert "3 of 3 runs to do" in table and "unknown" in table


PATIENT = """
import signal, sys, time
def stop(number, frame):
    print("saved")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
print(*sys.argv[1:], "ready", flush=True)
time.sleep(60)
"""


def test_an_interruption_lets_the_script_save_itself(tmp_path):
    script, log = tmp_path / "patient.py", tmp_path / "logs" / "patient.log"
    script.write_text(PATIENT)

    def interrupt():
        while not (log.is_file() and "ready" in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Stopped) as stopped, StopRequest() as stop:
        run_script(str(script), ("--ratio", "90"), log, stop)
    assert stopped.value.number == signal.SIGINT
    assert log.read_text().split() == ["--ratio", "90", "ready", "saved"]


def test_a_killed_study_leaves_no_script_behind(tmp_path):
    script, log = tmp_path / "patient.py", tmp_path / "patient.log"
    script.write_text(PATIENT)
    code = "import sys; from pathlib import Path; from study import isolated; isolated.LOADED = ();"
    code += "isolated.run_script(sys.argv[1], (), Path(sys.argv[2]), isolated.StopRequest())"
    process = subprocess.Popen([sys.executable, "-c", code, script, log], cwd=ROOT)
    until = time.monotonic() + 60
    while not (log.is_file() and "ready" in log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while "saved" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert log.read_text().split() == ["ready", "saved"]


def test_no_run_is_begun_after_a_request_to_stop(tmp_path, monkeypatch):
    def asks(script, words, log, stop, threads, devices=1):
        os.kill(os.getpid(), signal.SIGHUP)
        return scripts(script, words, log, stop, threads, devices)

    scripts = Scripts()
    monkeypatch.setattr(runner, "run_script", asks)
    with pytest.raises(Stopped) as stopped, StopRequest() as stop:
        runner.run_jobs(study(tmp_path, seeds=(0,)).jobs(), Times(tmp_path), str, stop)
    assert stopped.value.number == signal.SIGHUP
    assert [name for _, _, name in scripts.calls] == ["nyuv2_baseline", "nyuv2_baseline"]


def test_exit_status_and_last_words_of_a_script(tmp_path):
    script, log = tmp_path / "failing.py", tmp_path / "failing.log"
    script.write_text("import sys\nprint('one\\rtwo')\nprint('error: three', file=sys.stderr)\nsys.exit(2)\n")
    assert last_line(log) == "it said nothing"
    assert run_script(str(script), (), log, StopRequest()) == 2
    assert "two" in log.read_text() and last_line(log) in ("error: three", "two")


TINY = """
data: {crop: 33, batch_size: 2, eval_batch_size: 2, num_workers: 0}
model: {backbone: resnet18, width: 0.05}
optim: {iterations: 2, lr: 1.0e-3}
finetune: {iterations: 2, lr: 1.0e-3}
prune: {num_batches: 1}
run: {eval_every: 2, device: cpu}
"""


def reproduce(folder, *words):
    argv = ["reproduce.py", "--dest", str(folder / "out"), "--set", f"data.root={folder / 'rooms'}"]
    argv += [
        "--config",
        str(folder / "tiny.yaml"),
        "--methods",
        "disparse_pt:criterion=magnitude",
        "--seeds",
        "1",
    ]
    before, sys.argv = sys.argv, argv + list(words)
    try:
        runpy.run_path(str(ROOT / "reproduce.py"), run_name="__main__")
    finally:
        sys.argv = before


def test_one_command_from_nothing_to_the_table(tmp_path, capfd):
    from dataloaders.synthetic import main as draw_rooms

    size = ["--images", "6", "--size", "48x64", "--workers", "1"]
    draw_rooms([str(tmp_path / "rooms"), "--layout", "nyuv2", *size])
    (tmp_path / "tiny.yaml").write_text(TINY)
    capfd.readouterr()

    reproduce(tmp_path, "--dry-run")
    assert "2 of 2 runs to do" in capfd.readouterr().out
    assert not (tmp_path / "out").exists()

    reproduce(tmp_path)
    shown = capfd.readouterr().out
    assert "disparse_pt:criterion=magnitude" in shown and "seg mIoU % ↑" in shown
    assert "against dense" in shown and "together took" in shown
    result = tmp_path / "out/seed0/nyuv2_disparse_pt+criterion=magnitude_90.json"
    assert json.loads(result.read_text())["data_root"] == str(tmp_path / "rooms")

    reproduce(tmp_path)
    assert capfd.readouterr().out.count("finished before") == 2
    with pytest.raises(SystemExit) as stop:
        reproduce(tmp_path, "--batch-size", "4")
    assert stop.value.code == 2
    assert "data.batch_size=2, this study asks for 4" in capfd.readouterr().err

    for made in result.parent.glob("*.json"):
        made.unlink()
    with pytest.raises(SystemExit) as stop:
        reproduce(tmp_path, "--batch-size", "4")
    said = capfd.readouterr()
    assert stop.value.code == 2 and "2 of 2 runs failed" in said.err
    for script in ("launch_training.py", "create_pruned_net.py"):
        assert f"failed in {script}" in said.out
    assert said.out.count("was started with data.batch_size=2, this command says 4") == 2


@pytest.mark.slow
def test_three_at_once_give_the_table_of_one(tmp_path):
    """Three real studies over one folder; each run is made once, and the table is that of a study alone."""
    from dataloaders.synthetic import main as draw_rooms

    size = ["--images", "6", "--size", "48x64", "--workers", "1"]
    draw_rooms([str(tmp_path / "rooms"), "--layout", "nyuv2", *size])
    (tmp_path / "tiny.yaml").write_text(TINY)

    def command(dest):
        words = ["--data-root", tmp_path / "rooms", "--config", tmp_path / "tiny.yaml", "--seeds", "2"]
        words += ["--methods", "disparse_pt:criterion=magnitude,snip", "--dest", tmp_path / dest]
        return [sys.executable, "reproduce.py", *map(str, words)]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    alone = subprocess.run(command("alone"), cwd=ROOT, env=environment, capture_output=True, text=True)
    several = [
        subprocess.Popen(command("shared"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=600)[0] for process in several]
    assert [process.returncode for process in several] == [0, 0, 0]

    def table(text):
        return text[text.index("nyuv2: 90 % sparsity") : text.index("all runs below")]

    assert {table(text) for text in said} == {table(alone.stdout)}
    ended = [line for text in said for line in text.splitlines() if ": finished in" in line]
    assert len(ended) == 6


def test_finished_runs_may_differ_in_what_changes_no_result(tmp_path):
    (job,) = Study("nyuv2", tmp_path, (parse_variant("baseline"),), (), (0,)).jobs()
    made = settings(job)
    job.folder.mkdir(parents=True)
    for field, value in (("preflight", False), ("log_every", 7), ("device", "cuda")):
        job.result.write_text(json.dumps({"config": made | {"run": made["run"] | {field: value}}}))
        check(job)
    job.result.write_text(json.dumps({"config": made | {"run": made["run"] | {"eval_every": 7}}}))
    with pytest.raises(ValueError, match="made with run.eval_every=7, this study asks for 500"):
        check(job)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--set", "run.seed=5"],
            "--set run.seed=5 would be the seed of every run, whatever --seeds 3 says: use --seed or --seeds",
        ),
        (
            ["--set", "prune.ratio=80", "--ratios", "90,95"],
            "--set prune.ratio=80 would be the ratio of every run, whatever --ratios 90,95 says: "
            "use --ratios",
        ),
        (
            ["--methods", "rigl,snip:num_batches=5", "--set", "prune.num_batches=50"],
            "--set prune.num_batches=50 would lie over num-batches=5 of snip in --methods: "
            "leave one of them out",
        ),
        (
            ["--methods", "snip:shuffle=true", "--set", "prune={shuffle: false}"],
            "--set prune.shuffle=false would lie over shuffle=true of snip in --methods: "
            "leave one of them out",
        ),
    ],
)
def test_what_would_lie_over_the_plan_is_refused(words, sentence, tmp_path, monkeypatch):
    with pytest.raises(ValueError) as caught:
        begin(monkeypatch, "--dest", str(tmp_path / "out"), *words)
    assert str(caught.value) == sentence
    assert not (tmp_path / "out").exists()


def begin(monkeypatch, *words):
    """reproduce.py in this process."""
    import reproduce

    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    reproduce.work(reproduce.arguments(), StopRequest())


REFUSED = [
    (
        ["--methods", "rigl,snip:arbiter=majorty"],
        "nyuv2_snip+arbiter=majorty_90: arbiter 'majorty' is not one",
    ),
    (["--methods", "rigl,snip:granularity=2:4"], "nyuv2_snip+granularity=2_4_90: "),
    (["--methods", "snip:dynamic.memory=0.5"], "dynamic.memory 0.5 says how weights grow, and method snip"),
    (["--methods", "rigl:weighting=upgrd"], "weighting 'upgrd' is not one of"),
    (["--methods", "rigl:tasks=sge"], "'sge' is not one of"),
    (["--seed", "3", "--seeds", "1,5"], "--seeds 1,5 names the seeds, and --seed 3: leave one of them out"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_what_a_later_run_would_refuse_is_told_before_any_work(words, sentence, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        begin(monkeypatch, "--dest", str(tmp_path / "out"), "--seeds", "1", *words, "--dry-run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "ratio"),
    [
        ([], "90"),
        (["--config", "own.yaml"], "95"),
        (["--granularity", "2:4"], "50"),
        (["--ratios", "80"], "80"),
    ]
    + [(["--set", "prune.ratio=95"], "95"), (["--config", "own.yaml", "--ratios", "80"], "80")],
)
def test_the_ratio_is_that_of_the_settings_unless_the_command_says_others(
    words, ratio, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("prune: {ratio: 95}")
    begin(monkeypatch, "--dest", "out", "--seeds", "1", "--methods", "snip", *words, "--dry-run")
    assert f" nyuv2_snip_{ratio} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--split", "tset"], "--split 'tset' is not one of test, train, val; did you mean 'test'?"),
        (["--data-root", "nowhere"], "data folder nowhere does not exist: Get NYUv2"),
        (["--data-root", "."], "nyu_v2_3task.json, the index of the data set, does not exist: Get NYUv2"),
    ],
)
def test_data_that_are_not_there_are_told_before_any_work(words, sentence, rooms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "run_script", None)
    words = ["--data-root", str(rooms), "--dest", "out", "--methods", "snip", "--seeds", "1", *words]
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(sentence)):
        begin(monkeypatch, *words)
    assert not Path("out").exists()
    begin(monkeypatch, *words, "--dry-run")


def test_val_is_a_split_where_the_index_has_none(tmp_path):
    from reproduce import check_split

    (tmp_path / "nyu_v2_3task.json").write_text('{"train": [], "test": []}')
    data = Data(root=str(tmp_path))
    check_split(data, "val")
    (tmp_path / "nyu_v2_3task.json").write_text('{"test": []}')
    with pytest.raises(ValueError, match="--split 'val' is not one of test"):
        check_split(data, "val")


def test_a_finished_study_needs_no_data(tmp_path, monkeypatch, capsys):
    from tests.comparison.examples import write

    words = ["--dest", str(tmp_path), "--seeds", "1", "--methods", "snip"]
    for method in ("baseline", "snip"):
        write(tmp_path, method, 0, (20.0, 4.0, 0.5))
    monkeypatch.setattr("study.runner.check", lambda job: None)
    begin(monkeypatch, *words, "--data-root", "nowhere")
    assert capsys.readouterr().out.count("finished before") == 2


def test_a_study_is_not_gone_on_with_on_other_images(rooms, tmp_path):
    from reproduce import check_images

    config = load("nyuv2", flags=parse_assignments([f"data.root={rooms}"]))
    index = json.loads((Path(rooms) / "nyu_v2_3task.json").read_text())
    here = {"samples": len(index["test"]), "first_sample": index["test"][0][0]}
    alike = write(tmp_path / "a", "snip", 0, (1, 1, 1), **here)
    old = write(tmp_path / "b", "snip", 0, (1, 1, 1))  # which does not tell
    check_images(config, "test", [alike, old])
    other = write(tmp_path / "c", "snip", 0, (1, 1, 1), **here | {"samples": 99})
    with pytest.raises(ValueError, match=f"{other} holds scores of 99 images from .*, and {rooms} has "):
        check_images(config, "test", [alike, other])
