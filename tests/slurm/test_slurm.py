"""A tiny pipeline through `snakemake --profile slurm` on a private one-machine SLURM, with faults in the middle of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvfl.layout import Checkpoint, Reconstruction
from mvfl.runtime.tracking import read_attempts

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
GPU_RULES = {"cache_latents", "train_mvdiffusion", "score_checkpoint", "generate_synthetic", "finetune_gslrm"}
ONE_THREAD = {rule: 1 for rule in [*GPU_RULES, "prepare_dataset", "prepare_base"]}
EXPERIMENT = "mouse_6x_aug"
FAULTS = 20
# Kept outside the test's folder, so that a failed run can be looked at.
CLUSTER = Path(os.environ.get("TMPDIR", "/tmp")) / f"mvfl-test-slurm-{os.getuid()}"


def ask(*command: str) -> str:
    """Output of a SLURM command; empty where it failed."""
    done = subprocess.run(["timeout", "20", *command], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def wait_until(met: Callable[[], bool], seconds: float, what: str) -> None:
    """Ask once a second.

    Raises:
        AssertionError: with what SLURM says of its jobs and nodes, if it did not come true in time.
    """
    deadline = time.time() + seconds
    while not met():
        words = [ask("squeue", "-a"), ask("sinfo", "-R"), ask("scontrol", "show", "job"), ask("scontrol", "show", "node")]
        assert time.time() < deadline, f"not in {seconds:.0f} s: {what}\n" + "\n".join(words)
        time.sleep(1)


def slurm_is_installed() -> bool:
    """Whether SLURM's controller is on this machine."""
    return shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None


@contextlib.contextmanager
def running_cluster(*more: str) -> Iterator[None]:
    """A running one-machine SLURM, its commands first on PATH."""
    installable = os.geteuid() == 0 and shutil.which("apt-get")
    if not slurm_is_installed() and not installable:
        pytest.skip("SLURM is not installed and cannot be: install Debian's slurm-wlm and munge to run this test.")
    options = ["--dir", str(CLUSTER), "--gpus", "2", "--cpus", "8", "--mem", "16000", "--port", "6917", "--clean", *more]
    # A killed run may have left a cluster of another shape, which start.sh would go on using.
    subprocess.run([HERE / "stop.sh", "--dir", str(CLUSTER), "--quiet"], check=False)
    started = subprocess.run([HERE / "start.sh", *options, *(["--install"] if installable else [])], capture_output=True, text=True)
    if started.returncode:
        problem = started.stderr.strip()[-300:]
        if not slurm_is_installed():
            pytest.skip(f"SLURM cannot be installed on this machine: {problem}")
        pytest.fail(f"SLURM is installed but did not start; look into {CLUSTER}: {problem}")
    before = os.environ.copy()
    os.environ["SLURM_CONF"] = str(CLUSTER / "slurm.conf")
    os.environ["PATH"] = f"{CLUSTER / 'bin'}:{BIN}:{os.environ['PATH']}"
    try:
        yield
    finally:
        subprocess.run([HERE / "stop.sh", "--dir", str(CLUSTER), "--quiet"], check=False)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def cluster() -> Iterator[None]:
    """One node with two pretended GPUs."""
    with running_cluster():
        yield


@pytest.fixture
def two_nodes() -> Iterator[None]:
    """Two pretended nodes with two pretended GPUs each."""
    with running_cluster("--nodes", "2"):
        yield


def slurm_profile(folder: Path) -> Path:
    """The shipped profile with what a small test cluster needs: less memory, one thread, quick status checks.

    Two jobs at a time: while one that draws starts again, the other one can be struck.
    """
    profile: dict[str, Any] = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    profile |= {
        "retries": 12, "latency-wait": 5, "jobs": 2, "set-scatter": ["synthetic=2"], "slurm-status-command": "squeue",
        "slurm-init-seconds-before-status-checks": 3, "seconds-between-status-checks": 3,
        "set-threads": ONE_THREAD, "slurm-logdir": str(folder / "slurm-logs"),
    }  # fmt: skip
    profile["default-resources"]["mem_mb"] = 1000
    for rule in [
        *GPU_RULES,
        "prepare_dataset",
        "prepare_base",
        "embed_prompts",
        "join_synthetic",
        "render_report",
        "write_journal",
    ]:
        profile["set-resources"].setdefault(rule, {})["mem_mb"] = 2500
    (folder / "profile").mkdir(parents=True)
    (folder / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
    return folder / "profile"


# The executor asks ever more rarely, up to every three minutes, while no job ends: here it asks every three seconds.
SNAKEMAKE = """
import sys, snakemake.cli
from snakemake_executor_plugin_slurm import Executor
Executor.next_seconds_between_status_checks = property(lambda self: 3, lambda self, longer: None)
sys.argv[0] = "snakemake"
sys.exit(snakemake.cli.main())
"""


@contextlib.contextmanager
def snakemake(results: Path, log: Path, *options: str, overlays: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run the workflow in the background."""
    command = [
        sys.executable,
        "-c",
        SNAKEMAKE,
        *options,
        "--nolock",
        "--configfile",
        "configs/ci.yaml",
        str(HERE / "tiny.yaml"),
        *overlays,
    ]
    with open(log, "wb") as handle:
        process = subprocess.Popen([*command, "--config", f"results={results}"], cwd=ROOT, stdout=handle, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                process.kill()


class Undisturbed:
    """The same pipeline without SLURM and faults, running in the background: what must come out, and data, base and latents for
    those that only train.

    Args:
        folder: gets results and a log.
        process: of Snakemake.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.results, self.log, self.process = folder / "results", folder / "log", process

    def whole(self) -> Path:
        """The results, once all of it has run."""
        assert self.process.wait(900) == 0, self.log.read_text()[-5000:]
        return self.results

    def ready_to_train(self, results: Path) -> Path:
        """A tree in which everything before the training is there."""
        trains = self.results / "state" / EXPERIMENT / "mvdiffusion"
        deadline = time.time() + 600
        while not trains.exists() and self.process.poll() is None and time.time() < deadline:
            time.sleep(1)
        assert trains.exists(), self.log.read_text()[-5000:]
        for part in ("data", "base", "prompts", "latents"):
            shutil.copytree(self.results / part, results / part)
        return results


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """Begins with the first test and runs beside it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    local = ["--profile", "profiles/local", "--cores", "2", "--set-scatter", "synthetic=2", "--set-threads"]
    local += [f"{k}={v}" for k, v in ONE_THREAD.items()]
    with snakemake(folder / "results", folder / "log", *local) as process:
        yield Undisturbed(folder, process)


def check_the_cluster(profile: Path) -> None:
    """`mvfl slurm check` finds what this cluster has, and its probe runs on a node."""
    command = [str(BIN / "mvfl"), "slurm", "check", "configs/ci.yaml", "--profile", str(profile), "--probe"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("BAD")], done.stdout
    assert any(re.match(r"ok +train_mvdiffusion +gpu, 720 min, gpu:2", line) for line in lines), done.stdout
    assert any(re.match(r"node: ok +packages ", line) for line in lines), done.stdout + done.stderr


def test_a_cluster_is_checked_and_a_spent_time_limit_is_no_failure(undisturbed: Undisturbed, cluster: None, tmp_path: Path) -> None:
    profile = slurm_profile(tmp_path)
    check_the_cluster(profile)
    content = yaml.safe_load((profile / "config.yaml").read_text())
    content["retries"] = 0
    content["set-resources"]["train_mvdiffusion"]["runtime"] = 1
    (profile / "config.yaml").write_text(yaml.safe_dump(content))
    long = tmp_path / "long.yaml"
    long.write_text(
        "defaults: {training: {steps: 600}}\nevaluation: {step: 600}\nexperiments: {curriculum: {evaluation_step: 600}}\n"
    )
    results = undisturbed.ready_to_train(tmp_path / "results")
    with snakemake(results, tmp_path / "log", "--profile", str(profile), "train", overlays=(str(long),)) as process:
        deadline = time.time() + 900
        while process.poll() is None and time.time() < deadline:
            wake_pending()
            time.sleep(1)
        assert process.poll() == 0, (tmp_path / "log").read_text()[-5000:]
    assert "Error in rule" not in (tmp_path / "log").read_text()
    attempts = read_attempts(results / f"state/{EXPERIMENT}/mvdiffusion")
    assert next(a["reason"] for a in attempts if a["event"] == "ended") == "TimeSpent"
    assert len({a["slurm_job"] for a in attempts}) == 1 < len(attempts) // 2, "the same job, several times"


def test_training_runs_over_two_nodes_and_a_forced_one_begins_anew(
    undisturbed: Undisturbed, two_nodes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = slurm_profile(tmp_path)
    content = yaml.safe_load((profile / "config.yaml").read_text())
    rule = content["set-resources"]["train_mvdiffusion"]
    del rule["gpu"]
    rule |= {"nodes": 2, "tasks": 2, "mpi": "srun", "tasks_per_gpu": 0, "gres": "gpu:1", "mem_mb": 4000}
    (profile / "config.yaml").write_text(yaml.safe_dump(content))
    short = tmp_path / "short.yaml"
    short.write_text(
        "defaults: {training: {steps: 4, gradient_accumulation: 2}}\nevaluation: {step: 4}\n"
        "experiments: {curriculum: {evaluation_step: 4}}\n"
    )
    results = undisturbed.ready_to_train(tmp_path / "results")

    def train(*options: str) -> None:
        with snakemake(results, tmp_path / "log", "--profile", str(profile), "train", *options, overlays=(str(short),)) as process:
            assert process.wait(600) == 0, (tmp_path / "log").read_text()[-5000:]

    train()
    place = results / f"state/{EXPERIMENT}/mvdiffusion"
    speed = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    assert speed[-1]["step"] == 4
    assert read_attempts(place)[-1]["reason"] == "finished"
    log = next((results / "logs/train_mvdiffusion").glob("*.log")).read_text()
    assert "2 processes" in log, log
    train("--forcerun", "train")
    log = next((results / "logs/train_mvdiffusion").glob("*.log")).read_text()
    assert "Forced: computed anew from step 0" in log and "Starting at step 0, 2 processes" in log, log
    assert [a["step"] for a in read_attempts(place) if a["event"] == "begun"] == [0], "the earlier attempt was set aside"


def running_jobs() -> dict[str, str]:
    """SLURM id -> rule of the jobs that run."""
    rows = [line.split("|") for line in ask("squeue", "-h", "-t", "running", "-o", "%i|%k").splitlines() if "|" in line]
    return {job: match[1] for job, comment in rows if (match := re.match(r"(?:rule_)?([a-z_]+?)(?:_wildcards|$)", comment))}


def holds_a_gpu(job: str) -> bool:
    """Whether SLURM bound one numbered GPU to a job."""
    return re.search(r"GRES=gpu:(?:\w+:)?1\(IDX:[01]\)", ask("scontrol", "show", "job", "-d", job)) is not None


class Faults:
    """Injects faults one after another, each only after the stage went on since the last one."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.done: Counter[str] = Counter()
        self.progress: dict[str, int] = {}
        self.struck = ""
        requeue, kill, term, usr1 = self.requeue, self.kill, self.terminate, self.usr1
        # What befalls a node befalls it while one job trains: of the two that draw, one must be able to go on.
        self.plan: dict[str, list[Callable[[str], None]]] = {
            "train_mvdiffusion": [requeue, kill, self.drain, usr1, requeue, self.node_down, requeue, term, requeue],
            "generate_synthetic": [requeue, kill, requeue, kill, term, requeue, usr1, requeue, requeue, kill, requeue, requeue, requeue],
        }  # fmt: skip

    def measured(self, rule: str) -> int:
        """Steps trained or samples drawn so far."""
        state = self.results / "state" / EXPERIMENT
        if rule == "generate_synthetic":
            return len(list((state / "synthetic").glob("*/sample_*")))
        log = state / "mvdiffusion" / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        with contextlib.suppress(IndexError, json.JSONDecodeError):
            return json.loads(lines[-1])["step"]
        return 0

    def step(self, jobs: dict[str, str]) -> None:
        """Inject at most one fault; of two jobs that draw, into the one that was not struck last."""
        for job, rule in sorted(jobs.items(), key=lambda item: item[0] == self.struck):
            now = self.measured(rule) if self.plan.get(rule) else 0
            enough = 10 if rule == "train_mvdiffusion" else 1
            if self.plan.get(rule) and now >= self.progress.get(rule, 0) + enough:
                fault = self.plan[rule].pop(0)
                fault(job)
                self.progress[rule], self.struck = now, job
                self.done[f"{fault.__name__} in {rule}"] += 1
                print(f"{time.strftime('%H:%M:%S')} {fault.__name__} of job {job} ({rule}) at {now}", flush=True)
                return

    def requeue(self, job: str) -> None:
        ask("scontrol", "requeue", job)

    def starts_again(self, job: str) -> bool:
        """Whether a requeued job runs; without the update it would rest for two minutes."""
        ask("scontrol", "update", f"jobid={job}", "starttime=now")
        return "JobState=RUNNING" in ask("scontrol", "show", "job", job)

    def kill(self, job: str) -> None:
        if process := process_of(job):
            os.kill(process, signal.SIGKILL)
        else:
            ask("scancel", "--signal=KILL", job)

    def terminate(self, job: str) -> None:
        ask("scancel", "--signal=TERM", job)

    def usr1(self, job: str) -> None:
        ask("scancel", "--signal=USR1", job)

    def drain(self, job: str) -> None:
        node = ask("squeue", "-h", "-j", job, "-o", "%N").strip()
        ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
        ask("scontrol", "requeue", job)
        # The job saves what it has before it goes.
        wait_until(lambda: "COMPLETING" not in ask("squeue", "-h", "-j", job, "-o", "%T"), 180, f"job {job} leaves the node")
        assert not self.starts_again(job), "a drained node must not start jobs"
        time.sleep(3)
        assert not self.starts_again(job), "a drained node must not start jobs"
        ask("scontrol", "update", f"nodename={node}", "state=resume")
        wait_until(lambda: self.starts_again(job), 180, f"job {job} starts on the node that came back")

    def node_down(self, job: str) -> None:
        node = ask("squeue", "-h", "-j", job, "-o", "%N").strip()
        ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        time.sleep(4)
        ask("scontrol", "update", f"nodename={node}", "state=resume")
        # SLURM's daemon on the node learns late that the job's old self has ended; a job that starts before is refused as a
        # duplicate, itself held and the node drained. So it rests a while, if not the two minutes that SLURM has in mind.
        time.sleep(20)
        wait_until(lambda: self.starts_again(job), 300, f"job {job} starts on the node that came back")


def wake_pending() -> None:
    """A requeued job would rest for two minutes."""
    for job in ask("squeue", "-h", "-t", "pending", "-o", "%i").split():
        ask("scontrol", "update", f"jobid={job}", "starttime=now")


def process_of(job: str) -> int:
    """The process of mvfl in a job, 0 where there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
            if any(w.endswith(b"/mvfl") for w in words[:2]) and f"SLURM_JOB_ID={job}".encode() in environment:
                return int(folder.name)
    return 0


def test_nothing_is_lost_and_the_result_is_the_same(undisturbed: Undisturbed, cluster: None, tmp_path: Path) -> None:
    expected = undisturbed.whole()
    disturbed, profile = tmp_path / "disturbed", slurm_profile(tmp_path)
    faults, on_gpu = Faults(disturbed), set()
    deadline = time.time() + 40 * 60
    for _ in range(3):  # Snakemake may forget a job that failed in the moment of the decision; it is told, and run again
        with snakemake(disturbed, tmp_path / "log", "--profile", str(profile)) as process:
            while process.poll() is None and time.time() < deadline:
                jobs = running_jobs()
                on_gpu |= {rule for job, rule in jobs.items() if rule in GPU_RULES - on_gpu and holds_a_gpu(job)}
                faults.step(jobs)
                wake_pending()
                assert not (lost := ask("sinfo", "-h", "-R")), f"SLURM took the node away: {lost}"
                time.sleep(1)
        if "Run the same command again to go on" not in (tmp_path / "log").read_text():
            break
    assert process.poll() == 0, (tmp_path / "log").read_text()[-5000:]
    print(f"{faults.done.total()} faults: {dict(faults.done)}; on a GPU: {sorted(on_gpu)}", flush=True)

    assert faults.done.total() >= FAULTS
    assert on_gpu == GPU_RULES, "every GPU stage holds a GPU"
    experiment = Path("experiments") / EXPERIMENT
    same = [Checkpoint(experiment / "mvdiffusion" / "checkpoint-300").weights]
    same += [Reconstruction(experiment / "gslrm").weights, Reconstruction(experiment / "gslrm").ply]
    pictures = sorted(p.relative_to(expected) for p in (expected / experiment / "synthetic/samples").rglob("*.png"))
    assert len(pictures) == 4 * 6 * 6
    for file in [*same, *pictures]:
        assert (expected / file).read_bytes() == (disturbed / file).read_bytes(), f"{file} differs"
    attempts = read_attempts(disturbed / "state" / EXPERIMENT / "mvdiffusion")
    begun = [a["step"] for a in attempts if a["event"] == "begun"]
    print(f"training attempts began at steps {begun}", flush=True)
    assert len(begun) >= 8 and begun == sorted(begun), "every attempt went on from a saved step"
