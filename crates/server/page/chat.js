// The chat page: one conversation, streamed.

import { chat, models } from "./api.js";
import { Markdown } from "./markdown.js";

const EXAMPLES = ["What is moesaic?", "What is 47 + 58?", "Tell me a story about a fox.", "How do I load another model?"];
const FIELDS = ["system", "temperature", "top-p", "max-tokens", "seed", "thinking", "theme"];
const find = (id) => document.getElementById(id);
const [log, input, send, settings] = ["log", "input", "send", "settings"].map(find);

let messages = [];
let running = null;

function make(name, className, ...children) {
  const node = document.createElement(name);
  node.className = className;
  node.append(...children);
  return node;
}

function number(id) {
  const value = find(id).value.trim();
  return value === "" ? undefined : Number(value);
}

function request() {
  const system = find("system").value.trim();
  return {
    model: find("model").value || undefined,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    temperature: number("temperature"),
    top_p: number("top-p"),
    max_tokens: number("max-tokens"),
    seed: number("seed"),
    chat_template_kwargs: find("thinking").checked ? { thinking: true, enable_thinking: true } : undefined,
  };
}

/** Keeps the end in sight, unless the reader has scrolled away from it. */
function follow(change) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

class Answer {
  constructor() {
    this.text = "";
    // What came since it was last drawn.
    this.fresh = { text: "", thought: "" };
    this.details = null;
    this.body = make("div", "answer");
    this.drawing = new Markdown(this.body);
    this.meta = make("div", "meta");
    this.node = make("article", "assistant waiting", this.body, this.meta);
    this.dirty = false;
  }

  add(delta) {
    if (delta.reasoning_content) {
      this.fresh.thought += delta.reasoning_content;
      if (!this.details) {
        this.summary = make("summary", "", "Thinking…");
        this.details = make("details", "", this.summary, make("div", ""));
        this.node.prepend(this.details);
      }
    }
    this.text += delta.content ?? "";
    this.fresh.text += delta.content ?? "";
    if (!this.dirty) {
      this.dirty = true;
      requestAnimationFrame(() => this.show());
    }
  }

  show() {
    const { text, thought } = this.fresh;
    this.fresh = { text: "", thought: "" };
    this.dirty = false;
    follow(() => {
      if (this.details) {
        this.details.lastChild.append(thought);
        if (this.text) this.summary.textContent = "Thoughts";
      }
      this.drawing.add(text);
    });
  }

  finish(facts) {
    this.show();
    this.node.classList.remove("waiting");
    const copy = make("button", "", "Copy");
    copy.type = "button";
    copy.hidden = !navigator.clipboard;
    copy.addEventListener("click", () => navigator.clipboard.writeText(this.text));
    const again = make("button", "", "Again");
    again.type = "button";
    again.addEventListener("click", () => retry(this.node));
    follow(() => this.meta.append(copy, again, make("span", "", facts)));
  }

  fail(message) {
    this.show();
    this.node.classList.remove("waiting");
    follow(() => this.node.append(make("p", "wrong", message)));
  }
}

/** Time to the first token, and tokens per second after it. */
function measured(began, first, usage, reason) {
  if (!first || !usage) return "";
  const seconds = (performance.now() - first) / 1000;
  const count = usage.completion_tokens;
  const speed = count > 1 && seconds > 0 ? `${Math.round((count - 1) / seconds).toLocaleString()} tokens/s · ` : "";
  const cut = reason === "length" ? " · cut at the limit" : "";
  return `${speed}first token after ${(first - began).toFixed(0)} ms · ${count} tokens${cut}`;
}

async function answer() {
  const shown = new Answer();
  // A new chat may begin before this answer has ended.
  const conversation = messages;
  follow(() => log.append(shown.node));
  running = new AbortController();
  send.textContent = "Stop";
  const began = performance.now();
  let first, usage, reason;
  try {
    for await (const event of chat(request(), find("key").value.trim(), running.signal)) {
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      if (!choice) continue;
      if (choice.delta.content || choice.delta.reasoning_content) first ??= performance.now();
      reason = choice.finish_reason ?? reason;
      shown.add(choice.delta);
    }
    shown.finish(measured(began, first, usage, reason));
  } catch (error) {
    if (running.signal.aborted) shown.finish("stopped");
    else shown.fail(error.message);
  }
  if (shown.text) conversation.push({ role: "assistant", content: shown.text });
  running = null;
  send.textContent = "Send";
}

function ask(text) {
  if (!text.trim() || running) return;
  find("welcome").hidden = true;
  messages.push({ role: "user", content: text });
  log.append(make("article", "user", text));
  log.scrollTop = log.scrollHeight;
  answer();
}

/** Takes back everything from an answer on, and answers again. */
function retry(node) {
  if (running) return;
  const turns = [...log.querySelectorAll("article.user")];
  const asked = turns.filter((turn) => turn.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
  for (let next = asked.at(-1).nextElementSibling; next; next = asked.at(-1).nextElementSibling) next.remove();
  const users = messages.map((message, index) => [message.role, index]).filter(([role]) => role === "user");
  messages = messages.slice(0, users[asked.length - 1][1] + 1);
  answer();
}

function restart() {
  running?.abort();
  messages = [];
  log.querySelectorAll("article").forEach((node) => node.remove());
  find("welcome").hidden = false;
  input.focus();
}

function fit() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

async function showFacts() {
  const facts = find("facts");
  try {
    const list = await models(find("key").value.trim());
    const chosen = find("model").value;
    find("model").replaceChildren(...list.map(({ id }) => new Option(id, id, false, id === chosen)));
    const [model] = list;
    facts.textContent = `context ${model.max_model_len.toLocaleString()} tokens · format ${model.dialect}`;
  } catch (error) {
    facts.textContent = error.message;
  }
}

function remember() {
  const values = FIELDS.map((id) => [id, id === "thinking" ? find(id).checked : find(id).value]);
  localStorage.setItem("settings", JSON.stringify(Object.fromEntries(values)));
  sessionStorage.setItem("key", find("key").value);
  document.documentElement.dataset.theme = find("theme").value;
}

function recall() {
  const saved = JSON.parse(localStorage.getItem("settings") ?? "{}");
  for (const [id, value] of Object.entries(saved).filter(([id]) => FIELDS.includes(id))) {
    if (id === "thinking") find(id).checked = value;
    else find(id).value = value;
  }
  find("key").value = sessionStorage.getItem("key") ?? "";
  document.documentElement.dataset.theme = find("theme").value;
}

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const text = input.value;
  input.value = "";
  fit();
  ask(text);
});
input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) find("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !settings.open) running.abort();
  if (event.ctrlKey && event.key === ",") settings.showModal();
  if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    restart();
  }
});
find("new").addEventListener("click", restart);
find("open-settings").addEventListener("click", () => settings.showModal());
settings.addEventListener("close", () => {
  remember();
  showFacts();
});
for (const id of ["theme", "thinking"]) find(id).addEventListener("change", remember);
for (const text of EXAMPLES) {
  const button = make("button", "", text);
  button.type = "button";
  button.addEventListener("click", () => ask(text));
  find("examples").append(button);
}
recall();
showFacts();
