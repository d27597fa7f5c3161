# The config, checked before the DAG is built, and what the rules share.
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from cooperflow import client
from cooperflow import config as configuration
from cooperflow import layout
from cooperflow import plan as planning
from cooperflow import processes
from cooperflow.errors import UserError

SCRIPTS = Path(workflow.basedir) / "scripts"


def stop(error):
    """End with the error's own words: no traceback, no line of ours."""
    print(f"\n{error}\n", file=sys.stderr)
    sys.exit(1)


try:
    PLAN = planning.make(configuration.parse(config))
except UserError as error:
    stop(error)

RESULTS = PLAN.results

# Jobs inherit these: the config as it stands, whom they belong to, and how they start.
os.environ[configuration.ENVIRONMENT] = PLAN.config.model_dump_json()
os.environ[processes.OWNER] = str(processes.this_process())
os.environ[client.SWITCH] = PLAN.config.launcher


def begin_start(dag):
    """Called once, before the first job of a start; not for a dry run."""
    from cooperflow import start

    to_do = list(dag.needrun_jobs())
    names = {str(job.rule) for job in to_do}
    wanted = {str(file) for job in to_do for file in job.output}
    runs = [run for run in PLAN.runs if str(run.folder(RESULTS).result) in wanted]
    gradings = [run for run in PLAN.runs if str(run.folder(RESULTS).eval) in wanted]
    oracles = sum(str(job.rule).startswith("oracle_pair") for job in to_do)
    try:
        print(
            start.begin(
                PLAN,
                Path(workflow.basedir),
                start.Work(
                    images="image" in names,
                    runs=runs,
                    gradings=gradings,
                    oracles=oracles,
                    uses=image_uses(to_do),
                    slots=int(workflow.global_resources.get("run_slots").value or 4),
                ),
            ),
            file=sys.stderr,
        )
    except UserError as error:
        stop(error)


def broken_evals():
    """The newest note of each grading that broke: a folder that is empty as a rule."""
    try:
        notes = sorted(entry.path for entry in os.scandir(RESULTS.broken_evals))
    except FileNotFoundError:
        return {}
    return {Path(note).name.rpartition(".")[0]: note for note in notes}


BROKEN_EVALS = broken_evals()


def make_broken_anew():
    """Have the documents that are there but not whole made anew, as `--forcerun FILE` would.

    A run's comes back from the copy in its attempt, at no cost.
    """
    from cooperflow import atomic

    documents = [path for run in PLAN.runs for path in run.folder(RESULTS).documents]
    documents += [RESULTS.gate, *(RESULTS.sentinel(image) for image in PLAN.images)]
    broken = {str(path) for path in documents if path.exists() and not atomic.is_whole(path)}
    if broken:
        workflow.dag_settings.forcerun = {*workflow.dag_settings.forcerun, *broken}


if workflow.is_main_process:
    make_broken_anew()


def retries(_):
    """How often a failed job is tried again: which of its tries is the last one."""
    settings = workflow.execution_settings
    return 0 if settings is None else settings.retries


def either(words):
    """A wildcard constraint: one of these words."""
    import re

    return "|".join(re.escape(str(word)) for word in dict.fromkeys(words))


def images_before(wildcards):
    """What a run waits for: all images verified; in rolling mode its own."""
    if PLAN.config.images.rolling:
        return RESULTS.sentinel(layout.image_name(wildcards.repo, int(wildcards.task)))
    return RESULTS.gate


def image_uses(jobs):
    """Which files each image is still needed for, of those that the jobs make."""
    uses = {}
    for job in jobs:
        if str(job.rule).startswith(("run_", "eval_", "oracle_pair")):
            image = layout.image_name(job.wildcards.repo, int(job.wildcards.task))
            uses.setdefault(image, []).extend(str(file) for file in job.output)
    return uses


def run_of(wildcards, setting):
    """The run that a rule's wildcards name."""
    return planning.Run(
        PLAN.experiment(f"{wildcards.model}-{setting.name}{wildcards.repeat}"),
        layout.Pair(wildcards.repo, int(wildcards.task), (int(wildcards.a), int(wildcards.b))),
    )


# A pair's path below its experiment, as a pattern.
PAIR = "{repo}/{task}/f{a}_f{b}"


wildcard_constraints:
    model=either(name for name, model in PLAN.config.models.items() if model),
    repo=either(pair.repo for pair in PLAN.pairs),
    task=either(pair.task_id for pair in PLAN.pairs),
    a=r"\d+",
    b=r"\d+",
    # In brackets, because one that is empty would stand for anything.
    repeat=f"(?:{either(layout.repeat_suffix(n) for n in PLAN.repeats)})",
