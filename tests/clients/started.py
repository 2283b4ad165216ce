"""Waits for servers that suites start beside ours."""

import subprocess
import time
import urllib.request
from pathlib import Path


def wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float) -> None:
    """Until the address answers; says what the log does when it does not in time, or the process ends."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer: {log.read_text()}")
