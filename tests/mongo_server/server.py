"""A server that speaks MongoDB's wire protocol on one file: mongo-java-server, built by Maven on first use."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

FOLDER = Path(__file__).parent
BUILT = FOLDER / "target"
_SOURCES = (FOLDER / "pom.xml", *sorted((FOLDER / "src").rglob("*.java")))
_SECONDS_TO_BUILD = 240
_SECONDS_TO_START = 60
# Small and quick to start rather than fast: two cores are shared with the training that writes to it
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class ServerMissingError(Exception):
    """The server can't be had here; says in one sentence what it needs."""


def build() -> None:
    """Fetch and compile the server, once for all processes and sessions.

    Raises:
        ServerMissingError: Java or Maven is not installed, or Maven reaches neither its repository nor its cache.
    """
    for program, package in (("java", "Java 17"), ("mvn", "Maven")):
        if shutil.which(program) is None:
            raise ServerMissingError(f"needs {package} to build the test server, or INCASEM_TEST_MONGO_URL")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
    stamp = BUILT / "built"
    BUILT.mkdir(exist_ok=True)
    with open(BUILT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == digest:
            return
        _run_maven()
        stamp.write_text(digest)


def _run_maven() -> None:
    command = ["mvn", "-q", "-B", "-Dstyle.color=never", "compile", "dependency:copy-dependencies"]
    try:
        finished = subprocess.run(
            command,
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS_TO_BUILD,
        )
    except subprocess.TimeoutExpired:
        raise ServerMissingError(f"needs Maven's repository: no answer within {_SECONDS_TO_BUILD} s") from None
    if finished.returncode:
        first = next((line for line in finished.stdout.splitlines() if "ERROR" in line), "no message")
        raise ServerMissingError(f"needs the test server, which Maven does not build here: {first}")


class LocalMongo:
    """The server as a process of its own on 127.0.0.1; ends with the process that started it, however that one ends.

    Args:
        file: Where it keeps its data; survives ``kill``.
        memory: What it may use, as Java writes it.
    """

    def __init__(self, file: Path, memory: str = "256m") -> None:
        self.file, self.port, self.memory = file, 0, memory
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Address for clients, without a database."""
        return f"mongodb://127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, on the port that it had before if it had one, and return as soon as it listens."""
        assert self._process is None, "it runs already"
        build()
        classes = os.pathsep.join([str(BUILT / "classes"), str(BUILT / "lib" / "*")])
        self._process = subprocess.Popen(
            ["java", f"-Xmx{self.memory}", *_JVM, "-cp", classes, "LocalMongo", str(self.file), str(self.port)],
            stdin=subprocess.PIPE,  # the server ends when this pipe does
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # ctrl-C at the terminal is for the tests, which stop the server when they are done
        )
        assert self._process.stdout is not None
        too_long = threading.Timer(_SECONDS_TO_START, self._process.kill)
        too_long.start()
        line = self._process.stdout.readline()
        too_long.cancel()
        if not line.strip().isdigit():
            said = self._end(signal.SIGKILL)
            raise RuntimeError(f"The test server did not start: {said.strip() or 'no message'}")
        self.port = int(line)

    def kill(self) -> None:
        """End it as ``kill -9`` does; what it acknowledged is in its file."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it close its file and end."""
        self._end(signal.SIGTERM)

    def suspend(self) -> None:
        """Freeze it: connections stay open and nothing is answered, as with a machine that swaps itself to death."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # its other threads may answer until they have stopped

    def resume(self) -> None:
        """Let it go on after ``suspend``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> str:
        """End the process, if there is one, and give what it wrote to stderr."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            return process.communicate(timeout=20)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()[1]
