"""Database servers of this machine, real ones, on ports and in folders of their own.

They are children of the test process and die with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import OperationalError

from galley.system.pdeathsig import bound_to_me
from tests.integration.local.standin import wait_until
from tests.support import free_port, not_available

USER, PASSWORD, DATABASE = "galley", "not-a-secret", "studies"


class Server(ABC):
    """`start` and `stop` any number of times: the data stay."""

    driver: str
    ends_on: signal.Signals
    """At which it ends at once, connections or not, with everything on the disk."""
    other_connections: str
    end_connection: str

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gdb"))  # their sockets want a short path
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_with(PASSWORD)

    def url_with(self, password: str) -> str:
        made = URL.create(self.driver, USER, password, "127.0.0.1", self.port, DATABASE)
        return made.render_as_string(hide_password=False)

    @abstractmethod
    def create(self) -> None:
        """The folder of an empty database, with the user that the URL names."""

    @abstractmethod
    def command(self) -> list[str | Path]: ...

    def user(self) -> str | None:
        """As whom it runs; null: as this process."""
        return None

    def start(self) -> None:
        with (self.folder.with_suffix(".log")).open("ab") as log:
            self._process = subprocess.Popen(
                [str(word) for word in self.command()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                user=self.user(), preexec_fn=bound_to_me(), start_new_session=True,
            )  # fmt: skip
        wait_until(self.answers, 60)

    def answers(self) -> bool:
        engine = create_engine(self.url)
        try:
            engine.connect().close()
        except OperationalError:
            return False
        finally:
            engine.dispose()
        return True

    def drop_connections(self) -> None:
        """End all connections but the one that asks for it; the server goes on."""
        engine = create_engine(self.url)
        with engine.connect() as connection:
            for (number,) in connection.execute(text(self.other_connections)).all():
                connection.execute(text(self.end_connection), {"number": number})
        engine.dispose()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self.ends_on)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(".log").unlink(missing_ok=True)

    def run(self, *argv: str | Path, stdin: str = "") -> None:
        done = subprocess.run(
            [str(word) for word in argv], input=stdin, text=True, capture_output=True, user=self.user(),
            cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


class PostgreSQL(Server):
    """It refuses to run as root, so that root runs it as the user of its package."""

    driver = "postgresql"
    ends_on = signal.SIGINT
    other_connections = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    end_connection = "SELECT pg_terminate_backend(:number)"

    def user(self) -> str | None:
        return "postgres" if os.geteuid() == 0 else None

    def program(self, name: str) -> Path:
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        if not found:
            not_available("PostgreSQL", "studies in its database")
        return found[-1]

    def create(self) -> None:
        if (user := self.user()) is not None:
            shutil.chown(self.folder, user)
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ("--username", USER, "--pwfile", secret, "--auth", "scram-sha-256", "--no-sync")
        self.run(self.program("initdb"), "--pgdata", self.folder / "data", *options)
        words = ("--single", "-D", self.folder / "data", "template1")
        self.run(self.program("postgres"), *words, stdin=f"CREATE DATABASE {DATABASE}\n")

    def command(self) -> list[str | Path]:
        network = ("-h", "127.0.0.1", "-p", str(self.port), "-k", self.folder)
        return [self.program("postgres"), "-D", self.folder / "data", *network]


class MariaDB(Server):
    """What `mysql+pymysql://` talks to on Debian."""

    driver = "mysql+pymysql"
    ends_on = signal.SIGTERM
    other_connections = "SELECT id FROM information_schema.processlist WHERE id <> connection_id()"
    end_connection = "KILL :number"
    OPEN_ROOT = ("--auth-root-authentication-method=normal",)

    def program(self, name: str) -> str:
        found = shutil.which(name)
        if found is None:
            not_available("MariaDB", "studies in its database")
        return str(found)

    def create(self) -> None:
        self.run(self.program("mariadb-install-db"), *self._options(), *self.OPEN_ROOT, "--skip-test-db")
        statements = (
            f"CREATE DATABASE {DATABASE};\n"
            "FLUSH PRIVILEGES;\n"
            f"CREATE USER {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON {DATABASE}.* TO {USER}@'127.0.0.1';\n"
        )
        self.run(*self.command(), "--bootstrap", stdin=statements)

    def command(self) -> list[str | Path]:
        network = ("--bind-address=127.0.0.1", f"--port={self.port}", f"--socket={self.folder / 'socket'}")
        return [self.program("mariadbd"), *self._options(), *network]

    def _options(self) -> list[str]:
        own = ["--no-defaults", f"--datadir={self.folder / 'data'}"]
        return [*own, "--user=root"] if os.geteuid() == 0 else own


SERVERS = {"postgresql": PostgreSQL, "mariadb": MariaDB}
