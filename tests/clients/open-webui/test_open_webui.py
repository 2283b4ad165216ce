"""Open WebUI, unchanged, started by `moesaic launch`, from sign-up to an answer that comes as it is written.

It has a data folder and a home of its own, and no network but the server. What it looks like at the end is saved as
tests/.clients/open-webui.png.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from started import wait_for

TESTS = Path(__file__).resolve().parents[2]
MOESAIC = TESTS.parent / "target" / "release" / "moesaic"
PICTURE = TESTS / ".clients" / "open-webui.png"
QUIET = {
    "OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "ENABLE_VERSION_UPDATE_CHECK": "false", "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "true", "SCARF_NO_ANALYTICS": "true",
    # With its own tools a question has ten thousand tokens: this model answers those, but means nothing by it.
    "DEFAULT_MODEL_METADATA": '{"capabilities": {"builtin_tools": false}}',
    # Or it looks for a model of its own in the network.
    "RAG_EMBEDDING_ENGINE": "openai",
    "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The address of a new Open WebUI."""
    home = tmp_path_factory.mktemp("home")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: os.environ[name] for name in ("PYTHONPYCACHEPREFIX",) if name in os.environ}
    environment = {**kept, **QUIET, "HOME": str(home), "DATA_DIR": str(home / "data"), "PATH": path}
    command = [MOESAIC, "launch", "open-webui", "--url", os.environ["MOESAIC_DEMO_URL"], "--", "serve"]
    with open(home / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], cwd=home, env=environment, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", process, home / "log", 300)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def wait(browser, condition):
    # Whatever is drawn anew while it is looked at is looked at again.
    waiting = WebDriverWait(browser, 60, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException])
    return waiting.until(lambda _: condition())


def find(browser, css: str, text: str = ""):
    """The first element that is shown, with this text in it."""
    fits = lambda element: element.is_displayed() and text in element.text
    return wait(browser, lambda: next(filter(fits, browser.find_elements(By.CSS_SELECTOR, css)), None))


ANSWERS = ".chat-assistant"


def ask(browser, text: str) -> str:
    """The answer, once it is whole."""
    count = len(browser.find_elements(By.CSS_SELECTOR, ANSWERS))
    field = find(browser, "#chat-input")
    field.send_keys(text)
    field.send_keys(Keys.ENTER)
    wait(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ANSWERS)) > count)
    # Buttons below an answer say that it is done.
    wait(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ".copy-response-button")) > count)
    return browser.find_elements(By.CSS_SELECTOR, ANSWERS)[-1].text


def test_from_sign_up_to_a_streamed_answer(browser, page):
    browser.get(page)
    find(browser, "button", "Get started").click()
    find(browser, "input[autocomplete=name]").send_keys("Anna")
    find(browser, "input[type=email]").send_keys("anna@example.com")
    find(browser, "input[type=password]").send_keys("correct horse 1")
    find(browser, "button", "Create Admin Account").click()
    # What is new.
    find(browser, "button", "Okay, Let's Go!").click()
    assert find(browser, "#model-selector-model-button").text == "moesaic-demo"
    browser.execute_script("""
        window.lengths = [];
        const text = () => [...document.querySelectorAll(arguments[0])].at(-1)?.innerText.length ?? 0;
        const note = () => { const length = text(); if (length > (window.lengths.at(-1) ?? 0)) window.lengths.push(length); };
        new MutationObserver(note).observe(document.body, { childList: true, subtree: true, characterData: true });
    """, ANSWERS)
    assert "fox" in ask(browser, "Tell me a story about a fox.")
    lengths = browser.execute_script("return window.lengths")
    assert len(lengths) > 3, lengths
    assert "Anna" in ask(browser, "My name is Anna.")
    assert "Anna" in ask(browser, "What is my name?")
    assert "Paris" in ask(browser, "What is the capital of France?")
    browser.save_screenshot(PICTURE)
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    # It is still there when the page is opened again.
    browser.refresh()
    wait(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ANSWERS)) == 4)
    assert "Paris" in browser.find_elements(By.CSS_SELECTOR, ANSWERS)[-1].text
