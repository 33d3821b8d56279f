"""A PostgreSQL of the test's own, on loopback, in a temporary folder, as a user that is not root."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest


def program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs, on the PATH or where Debian has it."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


class Server:
    """A database server that can be stopped and started again."""

    def __init__(self):
        """Makes an empty database; skips the test where PostgreSQL or psycopg is absent."""
        pytest.importorskip("psycopg", reason="psycopg is absent: pip install 'psycopg[binary]'")
        if not program("initdb") or not program("pg_ctl"):
            pytest.skip("PostgreSQL is absent: apt-get install postgresql")
        self.user = {} if os.getuid() else {"user": unprivileged(), "group": pwd.getpwnam(unprivileged()).pw_gid}
        self.folder = Path(tempfile.mkdtemp(prefix="alignyolo-postgresql-"))
        if self.user:
            shutil.chown(self.folder, unprivileged())
        self.port, password = free_port(), secrets.token_hex(16)
        self.url = f"postgresql://tester:{password}@127.0.0.1:{self.port}/postgres"
        secret = self.folder / "password"
        secret.write_text(password)
        if self.user:
            shutil.chown(secret, unprivileged())
        options = ["--username=tester", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8"]
        self.call(program("initdb"), "-D", str(self.folder / "data"), *options)

    def call(self, *command: str) -> None:
        """Runs one of its programs as the unprivileged user."""
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60, **self.user)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = str(self.folder / "log")
        self.call(program("pg_ctl"), "-D", str(self.folder / "data"), "-o", settings, "-l", log, "-w", "start")

    def stop(self) -> None:
        """Ends it at once, as a crash would."""
        self.call(program("pg_ctl"), "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        """Stops it where it runs, and removes its folder."""
        if (self.folder / "data" / "postmaster.pid").is_file():
            self.stop()
        shutil.rmtree(self.folder)


def unprivileged() -> str:
    """A user that is not root: PostgreSQL's own, else nobody."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
