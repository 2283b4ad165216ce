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


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def script_answers(browser, text, thought="", piece=50):
    """From now on the page gets this answer, in pieces, instead of the model's."""
    browser.execute_script("""
        const [text, thought, piece] = arguments;
        const real = window.fetch;
        const encoder = new TextEncoder();
        const event = (value) => encoder.encode(`data: ${JSON.stringify(value)}\\n\\n`);
        const delta = (delta) => event({ choices: [{ delta, finish_reason: null }] });
        window.fetch = async (url, options) => {
          if (!url.endsWith('/chat/completions')) return real(url, options);
          const start = async (stream) => {
            if (thought) stream.enqueue(delta({ reasoning_content: thought }));
            for (let at = 0; at < text.length; at += piece) {
              stream.enqueue(delta({ content: text.slice(at, at + piece) }));
              await new Promise(requestAnimationFrame);
            }
            stream.enqueue(event({ choices: [], usage: { completion_tokens: text.length } }));
            stream.enqueue(encoder.encode('data: [DONE]\\n\\n'));
            stream.close();
          };
          return new Response(new ReadableStream({ start }), { status: 200 });
        };""", text, thought, piece)


def test_chat_page(browser, demo):
    browser.get(demo)
    facts = browser.find_element(By.ID, "facts")
    wait(browser, lambda: "65,536" in facts.text and "deepseek-v3.1" in facts.text)
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
    browser.find_element(By.CSS_SELECTOR, "label.switch").click()
    ask(browser, "What is 47 + 58?")
    wait(browser, lambda: "105" in last_answer(browser).text and browser.find_elements(By.CSS_SELECTOR, "details"))
    wait(browser, lambda: not browser.find_elements(By.CSS_SELECTOR, "article.waiting"))
    assert not browser.find_element(By.CSS_SELECTOR, "details").get_attribute("open")
    # A new chat forgets.
    browser.find_element(By.ID, "new").click()
    assert not browser.find_elements(By.CSS_SELECTOR, "article")
    # A setting outside the dialog is kept too.
    browser.refresh()
    assert browser.find_element(By.ID, "thinking").is_selected()
    browser.find_element(By.CSS_SELECTOR, "label.switch").click()
    assert errors(browser) == []


LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 5
WIDE = f"""# {LONG}

A word: {LONG}, in code: `{LONG}`, **{LONG}**, [{LONG}](https://example.com/{LONG}).

| {LONG} | b | c | d |
|---|---:|:---:|---|
| a word | `{LONG}` | another word | several words in one cell |

- {LONG}

> {LONG}

```{LONG}
{LONG} {LONG}
```
"""


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_wider_than_the_screen(browser, demo, width):
    screen = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        browser.get(demo)
        wait(browser, lambda: "65,536" in browser.find_element(By.ID, "facts").text)
        check_width(browser, width)
        # Both without opening anything.
        assert browser.find_element(By.ID, "model").text.strip() == "moesaic-demo"
        assert browser.find_element(By.ID, "thinking").is_displayed()
        script_answers(browser, WIDE, thought=LONG, piece=500)
        ask(browser, f"Say {LONG}")
        wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".meta span"))
        browser.execute_script("document.querySelector('details').open = true")
        assert browser.find_elements(By.CSS_SELECTOR, ".table td") and browser.find_elements(By.CSS_SELECTOR, "pre code")
        check_width(browser, width)
        browser.find_element(By.ID, "open-settings").click()
        check_width(browser, width)
        browser.get(f"{demo}/docs")
        wait(browser, lambda: browser.find_elements(By.ID, "ChatRequest"))
        check_width(browser, width)
        assert errors(browser) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def check_width(browser, width):
    """Neither the page nor the conversation scrolls sideways; only code and tables do, within themselves."""
    found = browser.execute_script("""
        const over = [...document.querySelectorAll('body *')].filter((node) => {
          const box = node.getBoundingClientRect();
          return (box.right > innerWidth + 1 || box.left < -1) && !node.parentElement.closest('pre, .table');
        });
        const log = document.getElementById('log');
        return [innerWidth, document.documentElement.scrollWidth, log.scrollWidth - log.clientWidth, over.map((node) => node.outerHTML.slice(0, 80))];""")
    assert found == [width, width, 0, []], found


def draw(browser, text, pieces):
    """The page's own renderer, fed in pieces: the nodes it made, whether the first stayed, and what it shows."""
    return browser.execute_async_script("""
        const [text, pieces, done] = arguments;
        import('/assets/markdown.js').then(({ Markdown }) => {
          const box = document.createElement('div');
          document.getElementById('log').append(box);
          const drawing = new Markdown(box);
          let made = 0;
          const observer = new MutationObserver(() => {});
          observer.observe(box, { childList: true, subtree: true });
          const count = () => observer.takeRecords().forEach((record) => (made += record.addedNodes.length));
          const step = Math.ceil(text.length / pieces);
          let first;
          for (let at = 0; at < text.length; at += step) {
            drawing.add(text.slice(at, at + step));
            count();
            if (at >= text.length / 2) first ??= box.firstChild;
          }
          const answer = [made, first === box.firstChild, box.innerHTML, box.textContent];
          box.remove();
          done(answer);
        });""", text, pieces)


@pytest.mark.parametrize("unit", ["[", "*", "**", "`", "[[a]", "[a](http://", "[a](http://b) ", "**a", "*a ", "[`**", "~", "> ", "| ", "|-", "- ", "_", "\\", "#"])
def test_marks_without_end_do_not_freeze_the_page(browser, demo, unit):
    browser.get(demo)
    # Drawing that looks at the rest of the line for every mark takes minutes here, not milliseconds.
    browser.set_script_timeout(20)
    text = unit * (400_000 // len(unit))
    for tail in ("", "](http://a", " x", "\u2028", "`"):
        draw(browser, text + tail, 4)


def test_forty_thousand_brackets(browser, demo):
    browser.get(demo)
    script_answers(browser, "[" * 40_000, piece=400)
    ask(browser, "Go on")
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".meta span"))
    assert browser.find_element(By.CSS_SELECTOR, ".answer").text == "[" * 40_000


def test_only_what_changed_is_drawn(browser, demo):
    browser.get(demo)
    paragraphs = "".join(f"Paragraph {n} is **bold**.\n\n- point\n- `code`\n\n```\nlet x = {n};\n```\n\n" for n in range(200))
    rows = "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 2000
    for text in (paragraphs, rows, "```\n" + "a line of code\n" * 5000, "one line\n" * 5000):
        pieces = 2000
        made, first_stayed, html, _ = draw(browser, text, pieces)
        assert first_stayed
        # Each line once, and the unfinished one for each piece.
        assert made < 3 * (text.count("\n") + pieces), made
        # In one piece or in many: the same.
        assert draw(browser, text, 1)[2] == html


def test_reference_page(browser, demo):
    browser.get(f"{demo}/docs")
    wait(browser, lambda: "POST /v1/chat/completions" in browser.find_element(By.ID, "log").text)
    assert "thinking_token_budget" in browser.find_element(By.ID, "ChatRequest").text
    assert errors(browser) == []


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
        import('/assets/markdown.js').then(({ Markdown }) => {
          const box = document.createElement('div');
          new Markdown(box).add('<img src=x onerror=alert(1)> **b** `c` [x](javascript:alert(1)) [y](https://a.b)\\n\\n```js\\nlet x;\\n```\\n- 1\\n- 2');
          done([box.innerHTML, box.innerText]);
        });"""
    html, text = browser.execute_async_script(script)
    assert "<img" not in html and "javascript:alert" not in "".join(html.split("href=")[1:])
    assert "<strong>b</strong>" in html and "<code>c</code>" in html and 'href="https://a.b"' in html
    assert "<li>1</li><li>2</li>" in html and "let x;" in text


@pytest.mark.parametrize(("text", "expected"), [
    ("a **b** c", "<p><span>a <strong>b</strong> c</span></p>"),
    ("***b***", "<p><span><strong><em>b</em></strong></span></p>"),
    ("*a* b*c* * d *", "<p><span><em>a</em> b*c* * d *</span></p>"),
    ("2 * 3 * 4", "<p><span>2 * 3 * 4</span></p>"),
    ("`` a`b `` `c", "<p><span><code>a`b</code> `c</span></p>"),
    ("[a **b**](https://c.d)", '<p><span><a href="https://c.d" rel="noopener noreferrer" target="_blank">a <strong>b</strong></a></span></p>'),
    ("[a] [b](c)", "<p><span>[a] [b](c)</span></p>"),
    ("a\nb\n\nc", "<p><span>a</span><br><span>b</span></p><p><span>c</span></p>"),
    ("## a\n---\n> b", "<h3>a</h3><hr><blockquote>b</blockquote>"),
    ("3. a\n4. b\n- c", '<ol start="3"><li>a</li><li>b</li></ol><ul><li>c</li></ul>'),
    ("x\n| a | b |\n|:-:|--|\n| `1` | 2\\|3 | 4 |\n\ny | z", '<p><span>x</span></p><div class="table"><table><thead><tr><th class="center">a</th><th class="">b</th></tr></thead><tbody><tr><td class="center"><code>1</code></td><td class="">2|3</td></tr></tbody></table></div><p><span>y | z</span></p>'),
    ("```js\na\n\n  b```\n```\nc", '<div class="code"><div><span>js</span><button type="button">Copy</button></div><pre><code data-language="js">a\n\n  b```</code></pre></div><p><span>c</span></p>'),
    ("```a```", "<p><span><code>a</code></span></p>"),
])
def test_markdown(browser, demo, text, expected):
    browser.get(demo)
    for pieces in (1, 3, len(text)):
        assert draw(browser, text, pieces)[2] == expected


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
