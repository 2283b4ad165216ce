"""Servers one after the other under the same load, as a table for RESULTS.md. In rounds, so that a machine whose speed
changes with the hour treats all alike; the best round of each counts.

    python3 crates/bench/peers/compare.py --load 67/32@1,16,32 --load 515/64@16 \\
        "moesaic=target/release/moesaic serve --model /tmp/v2-lite-6 --port {port}" \\
        "llama.cpp=llama-server -m /tmp/v2-lite-6.gguf -t 2 -np 32 -c 32768 --port {port}"

A load is prompt tokens / output tokens @ concurrencies. Needs only Python and the built moesaic, which drives the load.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

PORT = 8199
MOESAIC = pathlib.Path(__file__).parents[3] / "target/release/moesaic"


def is_ready() -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2).status == 200
    except (OSError, urllib.error.URLError):
        return False


def memory_of(group: int) -> float:
    """Gigabytes resident in all processes of a group."""
    pages = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            pages += int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def measure(load: tuple[int, int, int], seed: int) -> tuple[float, float, float]:
    """Output tokens per second; median milliseconds to the first token and between tokens."""
    prompt, output, concurrency = load
    with tempfile.NamedTemporaryFile() as file:
        command = [MOESAIC, "bench", f"http://127.0.0.1:{PORT}", "--max-token-id", "30000", "--json", file.name]
        command += ["--prompt-tokens", prompt, "--output-tokens", output, "--concurrency", concurrency]
        command += ["--num-requests", max(4, 2 * concurrency), "--seed", seed]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        report = json.loads(pathlib.Path(file.name).read_text())
    # Some servers close kept-alive connections now and then; one that refuses its share is not compared.
    assert report["num_failed"] <= 1, report
    if report["num_failed"]:
        print(f"<!-- {load}: one request failed, {report['first_failure']} -->", flush=True)
    median = lambda name: report[name]["p50_ms"] if report[name] else 0.0
    return report["output_tokens_per_second"], median("time_to_first_token"), median("inter_token_latency")


def run(command: str, loads: list[tuple[int, int, int]], seed: int) -> dict:
    assert not is_ready(), f"something answers on port {PORT} already"
    started = time.monotonic()
    server = subprocess.Popen(
        shlex.split(command.format(port=PORT)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PORT": str(PORT)},
    )
    try:
        while not is_ready():
            assert server.poll() is None, f"{command} ended with {server.returncode}"
            assert time.monotonic() - started < 300, f"{command} is not ready"
            time.sleep(0.1)
        result = {"ready": time.monotonic() - started}
        for load in loads:
            result[load] = measure(load, seed)
            assert server.poll() is None, f"{command} ended with {server.returncode}"
        return {**result, "memory": memory_of(server.pid)}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("servers", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--load", action="append", required=True, metavar="PROMPT/OUTPUT@N,N")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    loads = []
    for text in arguments.load:
        sizes, concurrencies = text.split("@")
        prompt, output = sizes.split("/")
        loads += [(int(prompt), int(output), int(concurrency)) for concurrency in concurrencies.split(",")]
    servers = dict(server.split("=", 1) for server in arguments.servers)
    rounds = {name: [] for name in servers}
    for number in range(arguments.rounds):
        for name, command in servers.items():
            rounds[name].append(run(command, loads, number))
            print(f"<!-- round {number + 1}, {name}: {rounds[name][-1]} -->", flush=True)
    print("| | " + " | ".join(servers) + " |\n|---|" + "---|" * len(servers))
    row = lambda title, cell: print(f"| {title} | " + " | ".join(cell(rounds[name]) for name in servers) + " |")
    row("ready after, s", lambda results: f"{min(result['ready'] for result in results):.1f}")
    row("resident, GB", lambda results: f"{max(result['memory'] for result in results):.1f}")
    for load in loads:
        prompt, output, concurrency = load
        best = lambda results: max(result[load] for result in results)
        cell = lambda results: "{:.1f} ({:.0f} / {:.1f})".format(*best(results))
        row(f"{prompt}/{output} tokens, {concurrency} at a time: output tok/s (first token / between tokens, ms)", cell)


if __name__ == "__main__":
    main()
