"""Servers of the embedded model, and balancers in front of them with the configuration that is shipped."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target" / "release" / "moesaic"
DOCKER = ROOT / "docker"
# Debian's packages.
PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy"}
# What is not done by then hangs.
PATIENCE = 60


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def status(url: str) -> int:
    """What a GET is answered; 0: nothing."""
    try:
        return urllib.request.urlopen(url, timeout=PATIENCE).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_for(what: str, condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise OSError(f"not after {PATIENCE} s: {what}")
        time.sleep(0.02)


class Replica:
    """A server on a port of its own, which it keeps over restarts."""

    def __init__(self, folder: Path, *settings: str):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self.log = folder / f"server-{self.port}.log"
        self.settings = settings
        self.process = None
        self.start()

    def start(self) -> None:
        arguments = [BINARY, "serve", "--port", str(self.port), "--threads", "1", *self.settings]
        # Settings that the shell happens to hold are not part of the test.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MOESAIC_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        wait_for("the server is ready", self.is_ready)

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise OSError(f"the server does not start: {self.log.read_text()[-500:]}")
        return status(f"{self.url}/ready") == 200

    def restart(self) -> None:
        self.process.terminate()
        if self.process.wait(PATIENCE):
            raise OSError(f"a server told to stop ends with {self.process.returncode}: {self.log.read_text()[-500:]}")
        self.start()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.kill()

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match(rf"vllm:{name}[{{ ]", line))

    def megabytes(self) -> int:
        """Resident memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+)", text)[1]) // 1024


def nginx(folder: Path, port: int, replicas: list[Replica], patience: str | None) -> list:
    """Writes what starts nginx, with docker/nginx.conf in a file that says where things lie."""
    template = (DOCKER / "nginx-servers.conf").read_text()
    server = re.search(r"^server moesaic:8000 resolve (.*;)$", template, re.MULTILINE)
    lines = [f"server {replica.address} {server[1]}" for replica in replicas]
    # Debian's nginx knows no `resolver` here yet.
    others = re.findall(r"^zone .*;$", template, re.MULTILINE)
    (folder / "servers.conf").write_text("\n".join([*others, *lines, ""]))
    text = (DOCKER / "nginx.conf").read_text()
    text = replaced(text, "listen 80;", f"listen 127.0.0.1:{port};")
    text = replaced(text, "/etc/nginx/moesaic-servers.conf", str(folder / "servers.conf"))
    if patience:
        text = replaced(text, "proxy_read_timeout 30m;", f"proxy_read_timeout {patience};")
    (folder / "site.conf").write_text(text)
    temporary = [f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    user = "user root;" if os.geteuid() == 0 else ""
    main = f"""{user} daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
events {{}}
http {{
    access_log off; {" ".join(temporary)}
    add_header X-Replica $upstream_addr;
    include {folder}/site.conf;
}}
"""
    (folder / "nginx.conf").write_text(main)
    return ["nginx", "-e", folder / "nginx.log", "-c", folder / "nginx.conf"]


def haproxy(folder: Path, port: int, replicas: list[Replica], patience: str | None) -> list:
    """Writes what starts HAProxy, with the servers in docker/haproxy.cfg's place for them."""
    text = (DOCKER / "haproxy.cfg").read_text()
    text = replaced(text, "bind :8080", f"bind 127.0.0.1:{port}")
    template = re.search(r"^ *server-template .*$", text, re.MULTILINE)
    servers = [f"    server {replica.address} {replica.address}" for replica in replicas]
    text = replaced(text, template[0], "\n".join([*servers, "    http-response set-header X-Replica %s"]))
    if patience:
        text = replaced(text, "timeout server 30m", f"timeout server {patience}")
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", folder / "haproxy.cfg"]


def replaced(text: str, old: str, new: str) -> str:
    """What is shipped has exactly one such place, or the test would not test it."""
    if text.count(old) != 1:
        raise OSError(f"{text.count(old)} times in what is shipped: {old}")
    return text.replace(old, new)


class Balancer:
    """nginx or HAProxy as shipped; with less `patience` for answers where a test cannot wait so long."""

    def __init__(self, name: str, folder: Path, replicas: list[Replica], patience: str | None = None):
        self.name = name
        folder = folder / f"{name}-{patience}"
        folder.mkdir()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = {"nginx": nginx, "haproxy": haproxy}[name](folder, port, replicas, patience)
        self.log = folder / "output.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": SEARCHED}
            )
        wait_for(f"{name} answers", self.is_up)

    def is_up(self) -> bool:
        if self.process.poll() is not None:
            raise OSError(f"{self.name} does not start: {self.log.read_text()[-800:]}")
        return status(f"{self.url}/ready") == 200

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# Where Debian puts daemons, which ordinary users do not search.
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def missing(names: list[str]) -> list[str]:
    """Balancers that are not here, after an attempt to install them."""
    absent = [name for name in names if shutil.which(name, path=SEARCHED) is None]
    if absent and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
        packages = [PACKAGES[name] for name in absent]
        subprocess.run(["apt-get", "install", "-y", "-qq", *packages], check=False, **quiet)
    return [name for name in absent if shutil.which(name, path=SEARCHED) is None]
