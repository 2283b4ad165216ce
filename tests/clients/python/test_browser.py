"""A real browser: the chat page, and a page of another origin that streams from the server."""

import http.server
import os
import shutil
import threading
from functools import partial

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    if "CI" in os.environ:
        raise RuntimeError("chromium and chromedriver are missing")
    pytest.skip("chromium and chromedriver are missing", allow_module_level=True)

# Ten lines that a web developer would write; see docker/browser.html.
EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "..", "..", "docker")


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,700"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(browser, condition):
    return WebDriverWait(browser, 20, poll_frequency=0.01).until(lambda _: condition())


def ask(browser, text):
    browser.find_element(By.ID, "input").send_keys(text, Keys.ENTER)


def last_answer(browser):
    return browser.find_elements(By.CSS_SELECTOR, "article.assistant")[-1]


def test_chat_page(browser, demo):
    browser.get(demo)
    facts = browser.find_element(By.ID, "facts")
    wait(browser, lambda: "moesaic-demo" in facts.text and "65,536" in facts.text and "deepseek-v3.1" in facts.text)
    # The page draws once per frame, and this model is quick: few steps, but more than one.
    browser.execute_script("""
        window.lengths = [];
        const text = () => document.querySelector('article.assistant .answer')?.innerText.length ?? 0;
        new MutationObserver(() => window.lengths.push(text())).observe(document.getElementById('log'), { childList: true, subtree: true });
    """)
    ask(browser, "Tell me a story about a fox.")
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".meta span"))
    seen = browser.execute_script("return window.lengths")
    assert len({length for length in seen if length}) > 1 and seen == sorted(seen), seen
    assert "fox" in last_answer(browser).text
    assert "tokens/s" in last_answer(browser).text and "first token after" in last_answer(browser).text
    # The conversation goes on; a thought is folded.
    browser.execute_script("document.getElementById('thinking').checked = true")
    ask(browser, "What is 47 + 58?")
    wait(browser, lambda: "105" in last_answer(browser).text and browser.find_elements(By.CSS_SELECTOR, "details"))
    wait(browser, lambda: not browser.find_elements(By.CSS_SELECTOR, "article.waiting"))
    assert not browser.find_element(By.CSS_SELECTOR, "details").get_attribute("open")
    # A new chat forgets.
    browser.find_element(By.ID, "new").click()
    assert not browser.find_elements(By.CSS_SELECTOR, "article")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_reference_page(browser, demo):
    browser.get(f"{demo}/docs")
    wait(browser, lambda: "POST /v1/chat/completions" in browser.find_element(By.ID, "log").text)
    assert "thinking_token_budget" in browser.find_element(By.ID, "ChatRequest").text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_stop_button(browser, demo):
    browser.get(demo)
    browser.execute_script("document.getElementById('max-tokens').value = 4000; document.getElementById('temperature').value = 2")
    ask(browser, "Tell me a story.")
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "article.waiting"))
    ask(browser, "")
    browser.find_element(By.ID, "input").send_keys(Keys.ESCAPE)
    wait(browser, lambda: not browser.find_elements(By.CSS_SELECTOR, "article.waiting"))
    assert browser.find_element(By.ID, "send").text == "Send"


def test_answers_cannot_inject(browser, demo):
    browser.get(demo)
    script = """
        const done = arguments[0];
        import('/assets/markdown.js').then(({ markdown }) => {
          const box = document.createElement('div');
          box.append(...markdown('<img src=x onerror=alert(1)> **b** `c` [x](javascript:alert(1)) [y](https://a.b)\\n\\n```js\\nlet x;\\n```\\n- 1\\n- 2'));
          done([box.innerHTML, box.innerText]);
        });"""
    html, text = browser.execute_async_script(script)
    assert "<img" not in html and "javascript:alert" not in "".join(html.split("href=")[1:])
    assert "<strong>b</strong>" in html and "<code>c</code>" in html and 'href="https://a.b"' in html
    assert "<li>1</li><li>2</li>" in html and "let x;" in text


def test_page_of_another_origin(browser, demo):
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=EXAMPLE))
    threading.Thread(target=files.serve_forever, daemon=True).start()
    try:
        browser.get(f"http://127.0.0.1:{files.server_port}/browser.html?server={demo}")
        browser.execute_script("""
            window.steps = 0;
            new MutationObserver(() => window.steps++).observe(document.querySelector('output'), { childList: true });
        """)
        button = browser.find_element(By.CSS_SELECTOR, "button")
        button.click()
        wait(browser, lambda: button.is_enabled())
        steps = browser.execute_script("return window.steps")
        assert steps > 1, f"the text came in {steps} steps"
        assert "fox" in browser.find_element(By.CSS_SELECTOR, "output").text
    finally:
        files.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass
