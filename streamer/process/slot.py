"""A stable name for this replica: the first free number on this host, held by a file lock.

It is part of the transactional id. It is stable, because a successor with the same id ends the open transaction of a
dead process at once instead of after its timeout. It is unique, because two processes with one id fence each other. The
kernel releases the lock whatever kills the process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from pathlib import Path

from streamer.errors import Temporary

SLOTS_MAX = 256


def file(group: str, name: str) -> Path:
    """The path of a file that a replica keeps on this host: readable by this user only, and the same after a restart.

    Raises:
        OSError: the folder cannot be made, or belongs to another user.
    """
    folder = Path(tempfile.gettempdir()) / f"streamer-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to somebody else", str(folder))
    return folder / f"{group.replace('/', '_')}.{name}"


def take(group: str) -> str:
    """Take the first free slot of `group` on this host until the process ends, and return its name.

    Raises:
        Temporary: all are taken, or the lock folder cannot be written.
    """
    try:
        for number in range(SLOTS_MAX):
            # A bare descriptor, never closed: the lock lives to the end of the process.
            lock = os.open(file(group, f"{number}.lock"), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            return f"{socket.gethostname()}-{number}"
    except OSError as error:
        raise Temporary(
            f"cannot lock a replica slot in {tempfile.gettempdir()}: {error}; "
            "set kafka.slot, or TMPDIR to a folder of yours"
        ) from error
    raise Temporary(f"{SLOTS_MAX} replicas of {group} run on this host already; set kafka.slot")
