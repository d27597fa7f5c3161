# The config, checked before the DAG is built, and what the rules share.
import gc
import os
import re
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

# A large DAG is objects by the million that all stay: looking through them for garbage every 700
# new ones took a fifth of a start's time.
gc.set_threshold(50_000)

from cooperflow import atomic, environment, halt, layout, processes
from cooperflow.errors import UserError
from cooperflow.experiment import config as configuration
from cooperflow.experiment import plan as planning
from cooperflow.tables import current


def stop(error):
    """End with the error's own words: no traceback, no line of ours."""
    print(f"\n{error}\n", file=sys.stderr)
    sys.exit(1)


try:
    PLAN = planning.make(configuration.parse(config))
except UserError as error:
    stop(error)

RESULTS = PLAN.results
GATE = str(RESULTS.gate)

# A pair's path below its experiment; the functions of the rules below take it apart.
PAIR = "{pair}"

# Jobs inherit these: the config as it stands, whom they belong to, and how they start.
os.environ[environment.CONFIG] = PLAN.config.model_dump_json()
if workflow.remote_exec:
    # A node of a cluster has got the start's name from it, with the whole environment. A launcher
    # would end with the job that began it, and take the others' work with it.
    if environment.OWNER not in os.environ:
        stop("The cluster hands no environment to its jobs (Slurm: sbatch --export=ALL does).")
    os.environ[environment.NODE] = str(processes.this_process())
    os.environ[environment.LAUNCHER] = "off"
else:
    os.environ.pop(environment.NODE, None)
    os.environ[environment.OWNER] = str(processes.this_process())
    os.environ[environment.LAUNCHER] = PLAN.config.launcher


def call(name, *arguments):
    """The command line of a script, quoted; the rules that have many jobs add little to it."""
    script = Path(workflow.basedir) / "scripts" / f"{name}.py"
    return shlex.join([sys.executable, str(script), *arguments])


def run_slots():
    """How many runs go on at a time."""
    value = workflow.global_resources.get("run_slots").value
    return value if isinstance(value, int) else 4


# What a provider bears at a time; `--resources provider_NAME=...` wins.
for name, slots in PLAN.run_limits.items():
    if name not in workflow.global_resources:
        workflow.register_resource(name, slots)


def begin_start(dag):
    """Called once, before the first job of a start; not for a dry run."""
    from cooperflow.start import begin

    # Which of a job's tries is the last one: its script is told the number alone.
    os.environ[environment.RETRIES] = str(workflow.execution_settings.retries)
    to_do = list(dag.needrun_jobs())
    names = [str(job.rule) for job in to_do]
    wanted = {str(file) for job in to_do for file in job.output}
    work = begin.Work(
        images="image" in names,
        runs=[run for run in PLAN.runs if str(run.folder(RESULTS).result) in wanted],
        gradings=[run for run in PLAN.runs if str(run.folder(RESULTS).eval) in wanted],
        oracles=names.count("oracle_pair"),
        uses=image_uses(to_do),
        slots=run_slots(),
        cluster=workflow.non_local_exec,
    )
    try:
        print(begin.begin(PLAN, Path(workflow.basedir), work), file=sys.stderr)
    except UserError as error:
        stop(error)
    halt.heed(RESULTS)


def end_session(success):
    """Called once, after the last job of a session; not for a dry run."""
    from cooperflow.jobs import notify

    if not workflow.remote_exec:
        notify.session_ended(PLAN, success)


def is_dry_run():
    """Whether a dry run was asked for: Snakemake itself knows it only after parsing."""
    return any(re.fullmatch(r"--dry-?run|-[A-Zfkpqr]*n[A-Zfkpqr]*", word) for word in sys.argv[1:])


# A session prints it with its plan.
if PLAN.config.limits.budget_usd is not None and is_dry_run():
    from cooperflow.jobs import budget

    print(budget.line(PLAN), file=sys.stderr)


def broken_evals():
    """The newest note of each grading that broke: a folder that is empty as a rule."""
    try:
        notes = sorted(entry.path for entry in os.scandir(RESULTS.broken_evals))
    except FileNotFoundError:
        return {}
    return {Path(note).name.rpartition(".")[0]: note for note in notes}


BROKEN_EVALS = broken_evals()


def every(name):
    """That document of every run. A function: jobs on a cluster's nodes never ask for the list."""
    folders = {
        one.run_name: str(RESULTS.mode(one.run_name, one.setting.mode)) for one in PLAN.experiments
    }
    return [f"{folders[run.experiment.run_name]}/{run.pair.folder}/{name}" for run in PLAN.runs]


def mend(document):
    """What a document that is there but not whole waits for: a file newer than it."""
    path = Path(document)
    if not path.exists() or atomic.is_whole(path):
        return []
    return newer_than(path)


def newer_than(*paths):
    """A file newer than these, which makes what has it for an input be made anew."""
    newer = layout.NEWER
    newer.parent.mkdir(exist_ok=True)
    with newer.open("a") as stream:
        stream.write(f"{paths} {time.time()}\n")  # of other contents too, which Snakemake compares
    then = max(newer.stat().st_mtime, *(path.stat().st_mtime + 0.01 for path in paths))
    os.utime(newer, (then, then))
    return str(newer)


def other_plan():
    """What the tables wait for when they are there, but of another choice of runs."""
    tables = [path for path in (RESULTS.runs_csv, RESULTS.summary_csv) if path.exists()]
    return newer_than(*tables) if tables and not current.are_of(PLAN) else []


def before_run(experiment):
    """What a run waits for. A finished one has no inputs: nothing can make it be paid again."""
    folder = str(RESULTS.mode(experiment.run_name, experiment.setting.mode))

    def waits(wildcards):
        result = f"{folder}/{wildcards.pair}/{layout.RESULT}"
        # One whose document is broken is put back from its attempt, which costs nothing.
        if os.path.exists(result):
            return mend(result)
        return ancient(images_before(wildcards.pair, experiment))

    return waits


def before_eval(experiment):
    """What a grading waits for: its run, and images if they may be gone; a note if it broke."""
    folder = str(RESULTS.mode(experiment.run_name, experiment.setting.mode))
    name = f"{experiment.run_name}--{experiment.setting.mode}--"

    def waits(wildcards):
        pair = wildcards.pair
        result = f"{folder}/{pair}/{layout.RESULT}"
        if not (os.path.exists(result) and atomic.is_whole(Path(result))):
            return result  # the run waits for the images
        graded = f"{folder}/{pair}/{layout.EVAL}"
        # The time of a run that is there says nothing: copies have any.
        if not os.path.exists(graded):
            return [ancient(file) for file in (result, images_before(pair)) if file]
        # A grading that broke left a note, which is newer than its eval.json.
        newer = BROKEN_EVALS.get(name + layout.dashed(pair)) or mend(graded)
        return [ancient(result), newer] if newer else ancient(result)

    return waits


def images_before(pair, runs=None):
    """What a run or grading waits for: all images; in rolling mode its own; on Modal none."""
    if not PLAN.config.docker:
        return []
    return str(RESULTS.sentinel(image_of(pair, runs))) if PLAN.config.images.rolling else GATE


def own_image(pair):
    """The sentinel of the image in which a pair is graded; on Modal none."""
    return str(RESULTS.sentinel(image_of(pair))) if PLAN.config.docker else []


def image_of(pair, runs=None):
    """The image in which a pair is graded, or is run in the experiment `runs`."""
    repo, task, _ = pair.split("/")
    image = layout.image_name(repo, int(task))
    return layout.with_agent_server(image) if runs and runs.agent.openhands else image


RUN_RULES = {f"run_{PLAN.rule(experiment)}": experiment for experiment in PLAN.experiments}


def task_image_of(image):
    """The verified image that one with an agent server is layered onto."""
    task = layout.task_image(image)
    return [] if task == image else ancient(RESULTS.root / "images" / f"{task}.json")


def with_server(image):
    """What tells the script of an image that it is the one with an agent server."""
    return "" if layout.task_image(image) == image else "--agent-server"


def image_uses(jobs):
    """Which files each image is still needed for, of those that the jobs make."""
    uses = {}
    for job in jobs:
        if str(job.rule).startswith(("run_", "eval_", "oracle_pair")):
            runs = RUN_RULES.get(str(job.rule))
            files = uses.setdefault(image_of(job.wildcards.pair, runs), [])
            files.extend(str(file) for file in job.output)
    return uses


def verified_images():
    """What `snakemake images` makes."""
    if not PLAN.config.docker:
        stop(f"backend {PLAN.config.backend} fetches the tasks' images by itself.")
    return str(RESULTS.gate)


def archive_of(image):
    """The tar of an image in images.archive, once the config names such a folder."""
    if PLAN.config.images.archive is None:
        raise WorkflowError("images.archive: name the folder for the tars, then start again.")
    return Path(PLAN.config.images.archive) / f"{layout.image_key(image)}.tar"


def either(words):
    """A wildcard constraint: one of these words."""
    return "|".join(re.escape(str(word)) for word in dict.fromkeys(words))


wildcard_constraints:
    pair=r"[^/]+/\d+/f\d+_f\d+",
