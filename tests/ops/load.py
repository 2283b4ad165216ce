"""Requests over plain sockets, each judged by what its client saw."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fleet import PATIENCE

PATH = "/v1/chat/completions"


def chat(tokens: int, stream: bool, text: str = "Tell me a story about a fox.") -> dict:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


@dataclass
class Answer:
    """What became of one request. `verdict` is "whole", "429", or says what was wrong."""

    is_stream: bool
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    replica: str = ""
    verdict: str = ""


class Connection:
    """A client's connection, kept for its next request."""

    def __init__(self, url: str):
        self.host = urlsplit(url).hostname
        self.port = urlsplit(url).port
        self.reader = self.writer = None

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        self.reader = self.writer = None

    async def ask(self, body: dict, answer: Answer) -> None:
        """Sends a request and notes in `answer` what came back."""
        try:
            answer.verdict = await asyncio.wait_for(self._ask(body, answer), PATIENCE)
        except TimeoutError:
            answer.verdict = f"hangs: not done after {PATIENCE} s"
        except (EOFError, OSError, asyncio.LimitOverrunError) as error:
            answer.verdict = f"cut: {error!r}"
        except (ValueError, LookupError, TypeError) as error:
            answer.verdict = f"makes no sense: {error!r}"
        answer.ended = time.monotonic()
        if answer.verdict not in ("whole", "429"):
            self.close()

    async def _ask(self, body: dict, answer: Answer) -> str:
        if self.writer is None or self.reader.at_eof():
            self.close()
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        data = json.dumps(body).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        self.writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        await self.writer.drain()
        code, headers = await self._head()
        # After attempts elsewhere: the last one.
        answer.replica = headers.get("x-replica", "").split(", ")[-1]
        text = (await self._body(headers)).decode()
        if headers.get("connection", "").lower() == "close":
            self.close()
        if code == 429:
            return "429" if headers.get("retry-after", "").isdigit() else "429 without Retry-After"
        if code != 200:
            return f"{code}: {text[:200]}"
        return whole_stream(text, body) if answer.is_stream else whole_answer(json.loads(text), body)

    async def _head(self) -> tuple[int, dict[str, str]]:
        line = await self.reader.readline()
        if not line.startswith(b"HTTP/1.1 "):
            raise EOFError(f"no answer, but {line!r}")
        headers = {}
        while (header := await self.reader.readline()) != b"\r\n":
            name, colon, value = header.decode().partition(":")
            if not colon:
                raise EOFError("ends within the headers")
            headers[name.lower()] = value.strip()
        return int(line.split()[1]), headers

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "transfer-encoding" not in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        parts = []
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            parts.append((await self.reader.readexactly(size + 2))[:-2])
            if size == 0:
                return b"".join(parts)


def whole_answer(answer: dict, body: dict) -> str:
    reason, tokens = answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]
    return "whole" if (reason, tokens) == ("length", body["max_tokens"]) else f"ends by {reason} after {tokens} tokens"


def whole_stream(text: str, body: dict) -> str:
    events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return f"cut: no [DONE], but {text[-100:]!r}"
    chunks = [json.loads(event) for event in events[:-1]]
    if error := next((chunk["error"] for chunk in chunks if "error" in chunk), None):
        return f"error event: {error}"
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    tokens = chunks[-1]["usage"]["completion_tokens"]
    right = (reasons, tokens) == (["length"], body["max_tokens"])
    return "whole" if right else f"ends by {reasons} after {tokens} tokens"


class Load:
    """Streams and plain answers, half and half, by clients that keep their connections."""

    def __init__(self, urls: list[str], clients: int, tokens: tuple[int, int]):
        self.urls = urls
        self.clients = clients
        self.tokens = tokens
        self.answers: list[Answer] = []
        self.random = random.Random(1)

    def next_body(self) -> dict:
        return chat(self.random.randint(*self.tokens), self.random.random() < 0.5)

    async def one(self, connection: Connection) -> None:
        body = self.next_body()
        answer = Answer(body["stream"])
        self.answers.append(answer)
        await connection.ask(body, answer)

    async def run(self, goes_on, rate: float) -> None:
        """Clients ask while `goes_on(number so far)`, at most `rate` times a second in all."""
        due = time.monotonic()

        async def client(number: int) -> None:
            nonlocal due
            connection = Connection(self.urls[number % len(self.urls)])
            while goes_on(len(self.answers)):
                due = max(due + 1 / rate, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
                await self.one(connection)
            connection.close()

        await asyncio.gather(*(client(number) for number in range(self.clients)))

    async def flood(self, seconds: float, rate: float) -> None:
        """As many requests a second as there should be, whatever becomes of those before."""

        async def alone() -> None:
            connection = Connection(self.urls[0])
            await self.one(connection)
            connection.close()

        began, asked = time.monotonic(), []
        while (since := time.monotonic() - began) < seconds:
            asked += [asyncio.create_task(alone()) for _ in range(int(since * rate) - len(asked))]
            await asyncio.sleep(0.005)
        await asyncio.gather(*asked)

    def in_flight(self, replica: str) -> int:
        """Streams that a replica has begun to answer."""
        return sum(answer.is_stream and answer.replica == replica and not answer.verdict for answer in self.answers)
