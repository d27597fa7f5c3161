"""Facts of Snakemake: its flags, what causes a job to run again, its exit codes."""

from __future__ import annotations

import functools
import inspect
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from snakemake.persistence import PersistenceBase
from snakemake.persistence.file import FilePersistence
from snakemake.scheduling.job_scheduler import JobScheduler

from cooperflow import layout, snakemake_setup
from cooperflow.experiment import config
from cooperflow.layout import REPOSITORY

SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
PROFILE = yaml.safe_load((REPOSITORY / "profiles" / "default" / "config.yaml").read_text())
RULE = """
rule {name}:
    output: "{name}"
    {more}
    shell: "{shell}"
"""


def rule(name: str, shell: str = "touch {output}", more: str = "") -> str:
    return RULE.format(name=name, shell=shell, more=more)


def snakemake(
    folder: Path, text: str, *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a workflow of a few lines under the shipped profile's keys; check its exit code."""
    (folder / "Snakefile").write_text(text)
    profile = folder / "profiles" / "default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "config.yaml").write_text(yaml.safe_dump(PROFILE))
    process = subprocess.run(
        [SNAKEMAKE, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == code, process.stderr
    return process


@functools.cache
def help_text() -> str:
    return subprocess.run([SNAKEMAKE, "--help"], capture_output=True, text=True).stdout


def test_keys_of_the_profile_are_flags() -> None:
    text = help_text()
    assert [key for key in PROFILE if f"--{key}" not in text] == []


def test_a_profile_beside_the_snakefile_is_used_automatically(tmp_path: Path) -> None:
    text = 'print("slots", workflow.global_resources.get("run_slots").value)\n' + rule("a")
    assert "slots 4" in snakemake(tmp_path, text, "a").stdout


def test_a_resource_can_be_limited_by_the_workflow(tmp_path: Path) -> None:
    """models.NAME.provider: two jobs that fit one at a time do not overlap."""
    shell = "mkdir busy && sleep 0.5 && rmdir busy && touch {output}"
    text = 'workflow.register_resource("provider_p", 1)\n'
    text += 'rule all:\n    input: "a", "b"\n'
    text += rule("a", shell, "resources: run_slots=1, **{'provider_p': 1}")
    text += rule("b", shell, "resources: run_slots=1, **{'provider_p': 1}")
    snakemake(tmp_path, text, "--retries", "0")


def test_snakemake_merges_configs_in_the_workflows_order(tmp_path: Path) -> None:
    """A config read by config.load has its models in the order of the tables."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(layout.CONFIG_FILE.read_text())
    user_config = tmp_path / "mine.yaml"
    user_config.write_text("settings: {coop-comm: [--setting, coop]}\nmodels: {z: {model: x}}\n")
    text = 'configfile: "config/config.yaml"\nprint(*config["settings"], *config["models"])\n'
    output = snakemake(tmp_path, text + rule("a"), "a", "--configfile", str(user_config)).stdout
    loaded = config.load([user_config])
    assert output.split() == [*loaded.settings, *loaded.models]
    assert output.split()[0] == "coop-comm"


def test_a_failed_job_is_tried_again_and_receives_its_number(tmp_path: Path) -> None:
    number = "resources: attempt=lambda wc, attempt: attempt"
    shell = "echo {resources.attempt} >> tries; test {resources.attempt} = 3 || exit 75; touch a"
    snakemake(tmp_path, rule("a", shell, number))
    assert (tmp_path / "tries").read_text().split() == ["1", "2", "3"]


def test_the_workflow_can_read_the_number_of_retries(tmp_path: Path) -> None:
    text = 'onstart:\n    print("tries", workflow.execution_settings.retries)\n' + rule("a")
    assert "tries 2" in snakemake(tmp_path, text).stdout


def test_a_job_that_fails_to_the_end_gives_exit_code_1(tmp_path: Path) -> None:
    text = 'rule all:\n    input: "a", "b"\n' + rule("a", "exit 77") + rule("b")
    snakemake(tmp_path, text, "--retries", "0", code=1)
    assert (tmp_path / "b").exists()  # the others are done all the same


def test_an_existing_output_without_input_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    output = snakemake(tmp_path, rule("a", "echo new > {output}")).stderr
    assert "Nothing to be done" in output
    assert (tmp_path / "a").read_text() == "mine"


def test_an_ancient_input_causes_no_job(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    time.sleep(0.05)
    (tmp_path / "newer").touch()
    output = snakemake(tmp_path, rule("a", more='input: ancient("newer")')).stderr
    assert "Nothing to be done" in output


def test_a_newer_input_makes_its_output_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    time.sleep(0.05)
    (tmp_path / "newer").touch()
    snakemake(tmp_path, rule("a", "echo new > {output}", 'input: "newer"'))
    assert (tmp_path / "a").read_text() == "new\n"


def test_onstart_does_not_run_in_a_dry_run(tmp_path: Path) -> None:
    text = 'onstart:\n    print("needed", [job.output for job in dag.needrun_jobs()])\n' + rule("a")
    text = text.replace("dag.need", "workflow.dag.need")
    assert "needed" not in snakemake(tmp_path, text, "--dry-run").stdout
    assert "needed [['a']]" in snakemake(tmp_path, text).stdout.replace("OutputFiles", "")


def test_higher_priority_goes_first(tmp_path: Path) -> None:
    text = 'rule all:\n    input: "low", "high"\n'
    for name, priority in (("low", 1), ("high", 2)):
        more = f"resources: run_slots=4\n    priority: {priority}"
        text += rule(name, "echo {rule} >> order; touch {output}", more)
    snakemake(tmp_path, text)
    assert (tmp_path / "order").read_text().split() == ["high", "low"]


def test_jobs_without_threads_leave_cores_for_others(tmp_path: Path) -> None:
    """Rule run: while every core is used, Snakemake starts no job, not even a job without threads.

    Instead of cores, a resource limits them that is set when the session starts.
    """
    wait = "mkdir busy && timeout 20 sh -c 'until test -e c; do sleep 0.1; done'"
    text = 'onstart:\n    workflow.register_resource("run_slots", 1)\n'
    text += 'rule all:\n    input: "a", "c", "d"\n'
    for name in ("a", "d"):
        more = "threads: 0\n    resources: run_slots=1"
        text += rule(name, f"{wait} && rmdir busy && touch {{output}}", more)
    text += rule("b", more="threads: 0") + rule("c", more='input: "b"\n    threads: 0')
    snakemake(tmp_path, text, "-j", "1", "--retries", "0")


def test_no_job_of_a_run_claims_a_core() -> None:
    """`run_slots` and `eval_slots` limit them."""
    for path in (REPOSITORY / "rules").glob("*.smk"):
        for text in re.split(r"\n *rule\b", path.read_text()):
            if "_slots" in text.partition("resources:")[2]:
                assert "threads: 0" in text, path.name


def test_after_sigterm_the_running_jobs_end_and_no_other_starts(tmp_path: Path) -> None:
    text = 'rule all:\n    input: "a", "b"\n'
    for name in ("a", "b"):
        text += rule(name, "touch started; sleep 3; touch {output}", "resources: run_slots=4")
    snakemake(tmp_path, text, "--dry-run")
    process = subprocess.Popen(
        [SNAKEMAKE], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert sum((tmp_path / name).exists() for name in ("a", "b")) == 1


@pytest.mark.parametrize("flag", ["--configfile", "--config", "--forcerun", "--resources"])
def test_flags_that_the_documentation_names(flag: str) -> None:
    assert flag in help_text()


MODULES = """
import sys
from snakemake.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("MODULES", *sys.modules)
"""


def imported(folder: Path, *arguments: str) -> set[str]:
    """The packages that a dry run imports."""
    command = [sys.executable, "-c", MODULES, "--dry-run", "--quiet", "all", *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    (line,) = (line for line in process.stdout.splitlines() if line.startswith("MODULES"))
    return {name.partition(".")[0] for name in line.split()[1:]}


def test_the_workflow_imports_no_package_that_snakemake_does_not(tmp_path: Path) -> None:
    """A dry run is mostly imports: pandas, docker or litellm would double its time."""
    (tmp_path / "Snakefile").write_text(rule("a"))
    bare = imported(tmp_path)
    modules = imported(REPOSITORY, "--config", f"results={tmp_path / 'results'}")
    assert "cooperflow" in modules
    assert modules - bare - {"cooperflow"} <= sys.stdlib_module_names
    # Snakemake imports them through plugins and smart_open where they are installed.
    assert bare.isdisjoint({"vertexai", "litellm", "cooperbench"})


def test_text_is_recorded_the_same_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    persistence = object.__new__(FilePersistence)
    assert persistence._serialize_param == persistence._serialize_param_pandas
    recorded = persistence._serialize_param("text")
    monkeypatch.setattr(PersistenceBase, "_serialize_param", PersistenceBase._serialize_param)
    snakemake_setup.record_text_parameters()
    assert persistence._serialize_param == persistence._serialize_param_builtin
    assert persistence._serialize_param("text") == recorded


def test_a_sigterm_does_not_wait_for_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler runs in the main thread, which may hold the lock: it must not wait for it."""
    assert "with self._lock" in inspect.getsource(JobScheduler.exit_gracefully)
    assert "signal.SIGTERM, self.exit_gracefully" in inspect.getsource(JobScheduler)
    monkeypatch.setattr(JobScheduler, "exit_gracefully", JobScheduler.exit_gracefully)
    snakemake_setup.handle_sigterm_aside()
    scheduler = object.__new__(JobScheduler)
    scheduler._lock, scheduler._open_jobs = threading.Lock(), threading.Semaphore(0)
    handler = threading.Thread(target=scheduler.exit_gracefully, args=(15, None), daemon=True)
    with scheduler._lock:
        handler.start()
        handler.join(10)
        assert not handler.is_alive()
    assert scheduler._open_jobs.acquire(timeout=20)
    assert scheduler._user_kill == "graceful"
