"""What each of upstream's backends can do for a run, and what it cannot. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from cooperflow.experiment.config_schema import INSIDE, Config, Containers, Images, Limits

DOCKER, MODAL, GCP = "docker", "modal", "gcp"

# Keys that say something to Docker here, and to Modal nothing.
_IMAGES = ("build", "archive", "registry", "rolling")


def problems(config: Config) -> Iterator[str]:
    """Tell what of the config the backend cannot do."""
    if config.backend == GCP:
        yield (
            "backend: 'gcp' cannot work with this cooperbench. No agent of it runs on Google "
            "Cloud: mini_swe_agent_v2 and swe_agent would run on Modal, claude_code and codex on "
            "this machine's Docker. And its grading of a single pair runs in an image of Google's "
            "tools, without the task's repository, so that every run would fail. Allowed: docker, "
            "modal."
        )
    elif config.backend == MODAL:
        yield from _modal(config)


def _modal(config: Config) -> Iterator[str]:
    if config.containers != Containers():
        yield (
            "containers: limits and networks are Docker's; upstream asks Modal for a sandbox "
            "without any. Take the table out, or use backend: docker."
        )
    for key in _IMAGES:
        if getattr(config.images, key) != Images.model_fields[key].default:
            yield (
                f"images.{key}: Modal fetches the tasks' images from Docker Hub by itself. Take "
                "the key out, or use backend: docker."
            )
    if config.limits.test_seconds != Limits.model_fields["test_seconds"].default:
        yield (
            "limits.test_seconds: a grading on Modal has upstream's own limit of 600 s. Take the "
            "key out, or use backend: docker."
        )
    talks_from_inside = from_inside(config, INSIDE)
    if talks_from_inside and not _reachable(config.redis.url):
        yield (
            f"settings.{talks_from_inside[0]}: its agents talk from inside their sandboxes, which "
            "cannot reach a Redis on this machine. Set redis.url to one that the internet can "
            "reach (rediss://, with a password), or leave the setting out "
            f"(settings: {{{talks_from_inside[0]}: null}})."
        )


def from_inside(config: Config, agents: Collection[str]) -> list[str]:
    """Return the settings whose agents, if among ``agents``, send messages from their containers.

    A team's agents always do.
    """
    inside = config.agent.name in agents
    return [
        name
        for name, flags in config.settings.items()
        if flags and ("team" in flags or (inside and _talks(flags)))
    ]


def _talks(flags: list[str]) -> bool:
    return "coop" in flags and "--no-messaging" not in flags


def _reachable(url: str | None) -> bool:
    host = urlsplit(url).hostname if url else None
    return host is not None and host not in ("localhost", "::1") and not host.startswith("127.")
