"""Starts the server once, on a random checkpoint with DeepSeek-V3's real tokenizer and template.

The tokenizer is third-party and not part of the repository: without ../shared the embedded model
is served instead, except under CI, where it must be there.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import openai
import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
BINARY = REPOSITORY / "target" / "release" / "moesaic"
TOKENIZER = REPOSITORY.parent / "shared" / "data" / "tokenizers" / "deepseek-v3"
KEY = "sk-test"


def start(arguments: list[str]) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [BINARY, "serve", "--port", "0", "--api-key", KEY, *arguments], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if found := re.search(r"ready in .* at (http://\S+)", line):
            return process, found[1]
    raise RuntimeError("the server did not start")


@pytest.fixture(scope="session")
def server() -> str:
    with tempfile.TemporaryDirectory() as folder:
        arguments = []
        if TOKENIZER.is_dir():
            model = Path(folder) / "tiny-v3"
            synth = [BINARY, "synth", "--preset", "tiny-v3", "--tokenizer", TOKENIZER, "--out", model]
            subprocess.run(synth, check=True)
            arguments = ["--model", str(model)]
        elif "CI" in os.environ:
            raise RuntimeError(f"{TOKENIZER} is missing")
        else:
            print(f"{TOKENIZER} is missing: testing with the embedded model")
        process, url = start(arguments)
        # Read on, so that the server never blocks on its log.
        subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield url
        process.terminate()
        assert process.wait(timeout=60) == 0


@pytest.fixture(scope="session")
def demo() -> str:
    """The embedded model, without keys."""
    process = subprocess.Popen([BINARY, "--port", "0"], stderr=subprocess.PIPE, text=True)
    url = next(found[1] for line in process.stderr if (found := re.search(r"ready in .* at (http://\S+)", line)))
    subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
    yield url
    process.terminate()
    assert process.wait(timeout=60) == 0


@pytest.fixture
def client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key=KEY)


@pytest.fixture
def async_client(server: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=KEY)
