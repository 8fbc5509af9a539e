"""A server started by an installed command, and the race against it."""

import json
import os
import pathlib
import signal
import subprocess
from collections.abc import Sequence

# Of a command that would otherwise never end.
TIMEOUT_S = 120


def output_of(command: Sequence[str | os.PathLike[str]], **options) -> str:
    """Runs a command to its end and returns what it printed. Fails if the command fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        **options,
    )
    if done.returncode:
        raise AssertionError(f"{command} exited with {done.returncode}:\n{done.stdout}")
    return done.stdout


class Server:
    """A server with embedded defaults: locks in memory, products in a SQLite file of `folder`."""

    def __init__(
        self,
        command: Sequence[str],
        folder: pathlib.Path,
        environment: dict[str, str],
        arguments: Sequence[str] = (),
    ) -> None:
        self.command, self.environment = command, environment
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        # Without a terminal, the server prints its address as a line of JSON.
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(TIMEOUT_S)
            raise AssertionError(f"{command} did not start: {self.logged()}")
        self.url = f"http://{json.loads(line)['address']}"

    def logged(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def race(self) -> None:
        """Fails unless one of five identical updates succeeds and four get 429."""
        race = [*self.command, "race", "--json", "--url", self.url]
        output = output_of(race, env=self.environment)
        statuses = sorted(request["status"] for request in json.loads(output)["requests"])
        assert statuses == [200, 429, 429, 429, 429], output
        ready = output_of([*self.command, "ready", "--url", self.url], env=self.environment)
        assert ready == "ready\n", ready

    def stop(self) -> None:
        """Sends SIGTERM. Fails unless the server then exits with 0."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(TIMEOUT_S)
        assert code == 0 and '"stopped"' in self.logged(), (code, self.logged())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, failure: type | None, *_: object) -> None:
        if failure is None:
            self.race()
            self.stop()
        # If a test has failed, the command may have started another process.
        elif self.process.poll() is None:
            self.process.terminate()
            self.process.wait(TIMEOUT_S)
        self.log.close()
