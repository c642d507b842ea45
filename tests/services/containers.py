"""Servers in Docker, through testcontainers, which is imported only where a rung of the ladder needs it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from typing import Any

from tests.services.process import ServiceError


def docker_host() -> str:
    """Where containers' ports appear; ServiceError when no Docker engine answers."""
    with warnings.catch_warnings(action="ignore"):
        try:
            return _ask_engine()
        except Exception as error:  # the socket, the HTTP library and docker-py each have their own
            reason = type(error).__name__
        gc.collect()  # docker-py leaves its socket open when nothing answers: that warning belongs to no test
    raise ServiceError(f"no Docker engine answers ({reason}); start one")


def _ask_engine() -> str:
    from testcontainers.core.docker_client import DockerClient

    engine = DockerClient()
    engine.client.ping()
    return engine.host()


class DockerProcess:
    """One container with one port, the same inside and out, so that a restarted server keeps its address."""

    def __init__(self, image: str, port: int, env: Mapping[str, str], command: str | None = None) -> None:
        self._image = image
        self._port = port
        self._env = dict(env)
        self._command = command
        self._container: Any = None

    def start(self) -> None:
        if self._container is not None:
            self._container.get_wrapped_container().start()
            return
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(self._image, env=self._env).with_bind_ports(self._port, self._port)
        if self._command:
            container = container.with_command(self._command)
        try:
            container.start()
        except Exception as error:
            raise ServiceError(f"Docker could not run {self._image}: {error}") from error
        self._container = container

    def stop(self) -> None:
        self._container.get_wrapped_container().stop()

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        self._container.get_wrapped_container().unpause()

    def close(self) -> None:
        if self._container is not None:
            self._container.stop()  # testcontainers removes the container and its volumes

    def check(self) -> None:
        container = self._container.get_wrapped_container()
        container.reload()
        if container.status == "exited":
            raise ServiceError(f"{self._image} exited:\n{container.logs(tail=30).decode(errors='replace')}")
