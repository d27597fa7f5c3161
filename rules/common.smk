# Loads and validates the config, and defines the helpers and input functions of the rules.
import os
import re
import shlex
import sys
from pathlib import Path

import snakemake

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from cooperflow import environment


def stop(error):
    """Print the message and exit, without a traceback."""
    print(f"\n{error}\n", file=sys.stderr)
    sys.exit(1)


# First, because the imports below would fail in another environment.
if problem := environment.interpreter_problem(snakemake.__version__, Path(workflow.basedir)):
    stop(problem)

from cooperflow import layout, redo, session_state, snakemake_setup
from cooperflow.errors import UserError
from cooperflow.experiment import config as configuration
from cooperflow.experiment import fingerprint
from cooperflow.experiment import plan as planning
from cooperflow.upstream import published

try:
    PLAN = planning.make(configuration.parse(config, files=workflow.configfiles))
    snakemake_setup.hand_to_jobs(PLAN.config, workflow.remote_exec)
except UserError as error:
    stop(error)

RESULTS = PLAN.results
GATE = str(RESULTS.gate)

# The wildcard for a pair's path below its experiment, as a constant for use in f-strings.
PAIR = "{pair}"

snakemake_setup.collect_garbage_rarely()
snakemake_setup.shorten_messages()
snakemake_setup.skip_hidden_jobs(workflow)
snakemake_setup.handle_sigterm_aside()
snakemake_setup.record_text_parameters()
snakemake_setup.restore_resources(workflow, Path(workflow.basedir) / "profiles")
snakemake_setup.limit_providers(workflow, PLAN.run_limits)


def call(name):
    """Return the quoted command that starts a rule's script."""
    script = Path(workflow.basedir) / "scripts" / f"{name}.py"
    return shlex.join([sys.executable, "-X", "utf8", str(script)])


def run_slots():
    """Return the number of concurrent runs."""
    value = workflow.global_resources.get("run_slots").value
    return value if isinstance(value, int) else 4


def start_session(dag):
    """Called once, before the first job of a session; not for a dry run."""
    from cooperflow.jobs import launcher
    from cooperflow.session import session_start

    snakemake_setup.limit_runs(workflow)
    # Jobs know the number of their try; this tells them the number of retries.
    os.environ[environment.RETRIES] = str(workflow.execution_settings.retries)
    pending = list(dag.needrun_jobs())
    names = [str(job.rule) for job in pending]
    os.environ[environment.TABLE_JOBS] = ",".join({*names} & {*launcher.TABLE_MODULES})
    outputs = {str(file) for job in pending for file in job.output}
    work = session_start.Work(
        images="image" in names,
        runs=[run for run in PLAN.runs if str(run.folder(RESULTS).result) in outputs],
        evaluations=[run for run in PLAN.runs if str(run.folder(RESULTS).eval) in outputs],
        own_features=[run for run in PLAN.runs if str(run.folder(RESULTS).own) in outputs],
        oracles=names.count("oracle_pair"),
        uses=image_uses(pending),
        slots=run_slots(),
        cluster=workflow.non_local_exec,
        tables=any(
            str(job.rule).startswith(("run_", "eval_", "own_", "aggregate")) for job in dag.jobs
        ),
        adopting="adopt" in names,
        pulls=names.count("image"),
    )
    try:
        print(session_start.start_session(PLAN, Path(workflow.basedir), work), file=sys.stderr)
    except UserError as error:
        stop(error)
    session_state.watch_for_halt(RESULTS)


def end_session(success):
    """Called once, after the last job of a session; not for a dry run."""
    from cooperflow.jobs import notification

    if workflow.remote_exec:
        return
    # In rolling mode, sentinels are removed after the last use of their image.
    kept = [
        job
        for job in workflow.dag.jobs
        if not (PLAN.config.images.rolling and str(job.rule) == "image")
    ]
    files = (str(file) for job in kept for file in job.output)
    missing = redo.missing_outputs(files) if success else []
    notification.session_ended(PLAN, success and not missing)
    if missing:
        stop(redo.missing_message(missing))


# Also without pending jobs, when no session compares the configurations.
if not workflow.remote_exec:
    for note in fingerprint.notes(PLAN, thorough=workflow.output_settings.dryrun):
        print(note, file=sys.stderr)

# A session prints the budget with its plan, but a dry run has no session.
if PLAN.config.limits.budget_usd is not None and workflow.output_settings.dryrun:
    from cooperflow.jobs import admission

    print(admission.describe_budget(PLAN), file=sys.stderr)


MARKED_EVALUATIONS = redo.marked_evaluations(RESULTS)


def documents(name, is_wanted=lambda experiment: True):
    """Return the paths of a document of every run. Jobs on cluster nodes do not need the list."""
    folders = {
        experiment.run_name: str(RESULTS.mode(experiment.run_name, experiment.setting.mode))
        for experiment in PLAN.experiments
    }
    return [
        f"{folders[run.experiment.run_name]}/{run.pair.folder}/{name}"
        for run in PLAN.runs
        if is_wanted(run.experiment)
    ]


# The input functions below also mark a broken output, so that it is made again
# (docs/what-runs-again.md).
def make_again(document):
    """Make Snakemake create an existing file again, like --forcerun, if its job is in the DAG."""
    workflow.dag.forcefiles.add(str(document))


def inputs_of_run(experiment):
    """The verified images. A finished run has no inputs, so that nothing can cause a paid rerun."""
    folder = str(RESULTS.mode(experiment.run_name, experiment.setting.mode))

    def inputs(wildcards):
        result = f"{folder}/{wildcards.pair}/{layout.RESULT}"
        if not os.path.exists(result):
            return images_before(wildcards.pair, experiment)
        # An incomplete document is restored from its attempt, which costs nothing.
        if redo.is_incomplete(result):
            make_again(result)
        return []

    return inputs


def inputs_of_evaluation(experiment, name=layout.EVAL, marker=redo.eval_marker):
    """The run and the verified images. A finished evaluation of a finished run has no inputs.

    `name` is the evaluation's document, `marker` names its redo marker.
    """
    folder = str(RESULTS.mode(experiment.run_name, experiment.setting.mode))

    def inputs(wildcards):
        result = f"{folder}/{wildcards.pair}/{layout.RESULT}"
        evaluation = f"{folder}/{wildcards.pair}/{name}"
        if not redo.is_complete(result):
            return result  # the run waits for the images
        broken = marker(folder, wildcards.pair) in MARKED_EVALUATIONS
        if redo.is_complete(evaluation) and not broken:
            return []
        if os.path.exists(evaluation):
            make_again(evaluation)
        return [result, images_before(wildcards.pair)]

    return inputs


def inputs_of_oracle(wildcards):
    """The verified image of a pair. A finished document of the oracle has no inputs."""
    document = RESULTS.root / "oracle" / wildcards.pair / f"repeat-{wildcards.repeat}.json"
    broken = layout.oracle_marker(wildcards.pair, wildcards.repeat) in MARKED_EVALUATIONS
    if redo.is_complete(document) and not broken:
        return []
    if document.exists():
        make_again(document)
    return evaluation_image(wildcards.pair)


def inputs_of_image(wildcards):
    """For an image with an agent server: the sentinel of the task's image. None once verified."""
    sentinel = RESULTS.root / "images" / f"{wildcards.image}.json"
    if redo.is_complete(sentinel):
        return []
    if sentinel.exists():
        make_again(sentinel)
    task = published.task_image(wildcards.image)
    return [] if task == wildcards.image else RESULTS.root / "images" / f"{task}.json"


def inputs_of_gate(_):
    """The sentinels of all images that the plan needs."""
    if redo.gate_is_outdated(PLAN) or redo.is_incomplete(RESULTS.gate):
        make_again(RESULTS.gate)
    return [RESULTS.sentinel(image) for image in PLAN.images]


def inputs_of_archive(wildcards):
    """The sentinel of the image. An existing tar file has no inputs."""
    exists = (Path(PLAN.config.images.archive or "archive") / f"{wildcards.image}.tar").exists()
    return [] if exists else RESULTS.root / "images" / f"{wildcards.image}.json"


def inputs_of_tables(_):
    """All documents of the runs, and the redo marker of the oracle if it exists."""
    paths = [*documents(layout.EVAL), *documents(layout.RESULT)]
    paths += documents(layout.OWN, PLAN.has_own_features)
    if redo.tables_are_outdated(PLAN, paths):
        make_again(RESULTS.runs_csv)
    # The marker is newer than the tables when the oracle's results have changed.
    return paths + ([str(RESULTS.tables_marker)] if RESULTS.tables_marker.exists() else [])


def images_before(pair, experiment=None):
    """The gate for a run or evaluation; in rolling mode its image's sentinel; on Modal nothing."""
    if not PLAN.config.docker:
        return []
    return str(RESULTS.sentinel(image_of(pair, experiment))) if PLAN.config.images.rolling else GATE


def evaluation_image(pair):
    """The sentinel of the image in which a pair is evaluated; on Modal nothing."""
    return str(RESULTS.sentinel(image_of(pair))) if PLAN.config.docker else []


def image_of(pair, experiment=None):
    """Return the image in which a pair is evaluated or, in an experiment, run."""
    repo, task, _ = pair.split("/")
    image = published.image_name(repo, int(task))
    has_server = experiment is not None and experiment.agent.openhands
    return published.with_agent_server(image) if has_server else image


RUN_RULES = {f"run_{PLAN.rule(experiment)}": experiment for experiment in PLAN.experiments}


def image_uses(jobs):
    """Return the outputs of the jobs that need each image."""
    uses = {}
    for job in jobs:
        if str(job.rule).startswith(("run_", "eval_", "own_", "oracle_pair")):
            experiment = RUN_RULES.get(str(job.rule))
            files = uses.setdefault(image_of(job.wildcards.pair, experiment), [])
            files.extend(str(file) for file in job.output)
    return uses


def verified_images(_):
    """The gate, for `snakemake images`."""
    if not PLAN.config.docker:
        stop(
            f"backend {PLAN.config.backend} fetches the images itself; `snakemake images` has nothing to do."
        )
    return str(RESULTS.gate)


def archives(_):
    """The tar files of all images in images.archive."""
    if PLAN.config.images.archive is None:
        raise WorkflowError(
            "images.archive: missing. Name the folder for the tar files, then start again."
        )
    folder = Path(PLAN.config.images.archive)
    return [folder / f"{layout.image_key(image)}.tar" for image in PLAN.images]


def try_number(_, attempt):
    """The number of Snakemake's try of a job: 1, 2, ... Only resource functions receive it."""
    return attempt


def either(words):
    """Return the wildcard constraint for a list of words."""
    return "|".join(re.escape(str(word)) for word in dict.fromkeys(words))


wildcard_constraints:
    pair=r"[^/]+/\d+/f\d+_f\d+",
