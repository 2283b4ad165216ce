"""What balancers must let through, and what they must not do twice. Each check takes the balancer's address and the servers
behind it."""

import http.client
import json
import os
import socket
import struct
import time
from contextlib import closing
from urllib.parse import urlsplit

from fleet import PATIENCE, Replica, status, wait_for
from load import PATH, chat

# More than is done in the seconds that a check lasts.
ENDLESS = 30_000


def probe(url: str) -> tuple[int, float]:
    """What /health answers, and how soon."""
    began = time.monotonic()
    return status(f"{url}/health"), time.monotonic() - began


def post(url: str, body: bytes) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    connection.request("POST", PATH, body, {"Content-Type": "application/json"})
    return connection


def total(replicas: list[Replica], metric: str) -> float:
    return sum(replica.metric(metric) for replica in replicas)


def websocket(url: str, replicas: list[Replica]) -> None:
    """A WebSocket is opened, and a response comes over it."""
    address = urlsplit(url)
    with closing(socket.create_connection((address.hostname, address.port), PATIENCE)) as connection:
        head = "GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        connection.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'x' * 22}==\r\n\r\n".encode())
        reader = connection.makefile("rb")
        answer = reader.readline()
        assert b" 101 " in answer, answer
        while reader.readline() != b"\r\n":
            pass
        ask = {"type": "response.create", "model": "moesaic-demo", "input": "Hello!", "max_output_tokens": 16}
        data, mask = json.dumps(ask).encode(), os.urandom(4)
        assert 125 >= len(data), "a longer frame has another head"
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        connection.sendall(bytes([0x81, 0x80 | len(data)]) + mask + masked)
        while True:
            _, size = reader.read(2)
            if size == 126:
                size = struct.unpack(">H", reader.read(2))[0]
            event = json.loads(reader.read(size))
            if event["type"] in ("response.completed", "response.incomplete"):
                return
            assert event["type"] != "error", event


def large(url: str, replicas: list[Replica]) -> None:
    """A body of the size of long conversations arrives."""
    connection = post(url, json.dumps(chat(1, stream=False, text="A fox. " * 300_000)).encode())
    answer = connection.getresponse()
    text = answer.read()
    # It has more tokens than the model takes, which only the server knows.
    assert answer.status == 400 and b"context" in text, (answer.status, text[:300])


def streams_as_it_comes(url: str, replicas: list[Replica]) -> None:
    """A stream's first events come while it is still being generated."""
    connection = post(url, json.dumps(chat(ENDLESS, stream=True)).encode())
    answer = connection.getresponse()
    # The first may come before anything is computed; every second line is empty.
    lines = [answer.readline() for _ in range(10)]
    assert all(line.startswith(b"data: ") for line in lines[::2]), lines
    assert total(replicas, "num_requests_running") == 1, "it had ended by then"
    connection.close()
    answer.close()
    wait_for("the server ends what nobody reads", lambda: total(replicas, "num_requests_running") == 0)


def gone_client_frees_its_place(url: str, replicas: list[Replica]) -> None:
    """What is not streamed ends with its client, too."""
    before = total(replicas, "generation_tokens_total")
    connection = post(url, json.dumps(chat(ENDLESS, stream=False)).encode())
    wait_for("the request runs", lambda: total(replicas, "num_requests_running") == 1)
    connection.close()
    wait_for("it ends", lambda: total(replicas, "num_requests_running") == 0)
    made = total(replicas, "generation_tokens_total") - before
    assert made < ENDLESS, "it was computed to its end"


def slow_is_sent_once(url: str, replicas: list[Replica]) -> None:
    """What takes longer than the balancer waits is given up, not begun again on the next server. Here it waits one second."""
    before = total(replicas, "prompt_tokens_total")
    connection = post(url, json.dumps(chat(ENDLESS, stream=False)).encode())
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 504, answer.status
    once = total(replicas, "prompt_tokens_total") - before
    post(url, json.dumps(chat(1, stream=False)).encode()).getresponse().read()
    small = total(replicas, "prompt_tokens_total") - before - once
    assert once == small > 0, f"{once} prompt tokens for a prompt of {small}"


CHECKS = [websocket, large, streams_as_it_comes, gone_client_frees_its_place, slow_is_sent_once]
