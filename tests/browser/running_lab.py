"""A JupyterLab of one's own on loopback, and waits that end."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat

from prumerge.paths import NOTEBOOKS

START_S = 90
SETTINGS = {
    # All cells in the page, also those out of sight; and no questions to the internet.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
SHOTS = Path(tempfile.mkdtemp(prefix="prumerge-screenshots-"))


def find_chromium() -> str:
    """Return the Chromium of this machine; fail where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise FileNotFoundError("no Chromium: apt-get install chromium")


def wait_for(what, seconds: float, told: str, pause_s: float = 0.2):
    """Call until something true comes back, and hand that over; fail when the time is up."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"after {seconds:.0f} s still not: {told}"
        time.sleep(pause_s)
    return found


class Lab:
    """A JupyterLab of its own: copies of notebooks without outputs, its own settings, one token."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        (folder / "notebooks").mkdir()
        for name, values in SETTINGS.items():
            path = folder / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        self.process = self._start()

    def _start(self) -> subprocess.Popen:
        own = {"CONFIG_DIR": "config", "RUNTIME_DIR": "runtime", "DATA_DIR": "data"}
        environment = os.environ | {f"JUPYTER_{k}": str(self.folder / v) for k, v in own.items()}
        environment |= {f"JUPYTERLAB_{k}_DIR": str(self.folder / k.lower())
                        for k in ("SETTINGS", "WORKSPACES")}  # fmt: skip
        options = [f"--ServerApp.root_dir={self.folder / 'notebooks'}", "--ServerApp.ip=127.0.0.1",
                   f"--ServerApp.port={self.url.rpartition(':')[2]}", "--allow-root",
                   f"--IdentityProvider.token={self.token}", "--no-browser"]  # fmt: skip
        with (self.folder / "lab.log").open("w") as log:
            command = [sys.executable, "-m", "jupyterlab", *options]
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def ask(self, path: str, method: str = "GET"):
        """Return what the server answers, or None while it does not or says nothing."""
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method)
        request.add_header("Authorization", f"token {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.loads(answer.read() or "null")
        except (urllib.error.URLError, OSError):
            return None

    def started(self) -> bool:
        """Say whether the server answers; fail with its log where it has ended."""
        assert self.process.poll() is None, (self.folder / "lab.log").read_text()
        return self.ask("status") is not None

    def put(self, name: str, until: str = "", **changes: str) -> int:
        """Lay a copy of a committed notebook into the lab, its outputs cleared, its kernel ended.

        Args:
            name: Of the notebook.
            until: The last cell is the first one that holds this text; empty keeps all. JupyterLab
                takes cells far above the last one off the page, and their widgets with them.
            changes: Lines of its cell of parameters by the name that is set there.

        Returns:
            How many cells there are to run.
        """
        for session in self._sessions(name):  # a kernel of before would count its cells on
            self.ask(f"sessions/{session['id']}", "DELETE")
        document = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        last = next(
            (n for n, c in enumerate(document.cells, 1) if until and until in c.source), None
        )
        document.cells = document.cells[:last]
        for cell in document.cells:
            if cell.cell_type == "code":
                cell.update(execution_count=None, outputs=[])
            if "parameters" in cell.metadata.get("tags", []):
                cell.source += "".join(f"\n{name} = {value}" for name, value in changes.items())
        nbformat.write(document, self.folder / "notebooks" / f"{name}.ipynb")
        return sum(cell.cell_type == "code" for cell in document.cells)

    def kernel_waits(self, name: str) -> bool:
        """Say whether the kernel of a notebook is idle and the page is connected to it."""
        kernels = [session["kernel"] for session in self._sessions(name)]
        return any(k["execution_state"] == "idle" and k["connections"] >= 1 for k in kernels)

    def _sessions(self, name: str) -> list:
        return [s for s in self.ask("sessions") or [] if s["path"].endswith(f"{name}.ipynb")]

    def stop(self) -> None:
        """End the server and its kernels."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
