// Markdown to DOM nodes: what language models write, drawn while they write it.

import { element, inline } from "./inline.js";

const FENCE = /^\s*(```+|~~~+)\s*([^\s`]*)/;
const HEADING = /^(#{1,6})\s+/;
const ITEM = /^\s*(?:[-*+]|(\d{1,9})[.)])\s+/;
const RULE = /^\s*([-*_])(?:\s*\1){2,}\s*$/;
// A cell of the line below a table's head.
const SIDE = /^:?-+:?$/;
const MAX_COLUMNS = 64;

function codeBlock(language) {
  const code = element("code");
  if (language) code.dataset.language = language;
  const copy = element("button", "Copy");
  copy.type = "button";
  // Browsers offer the clipboard to safe origins only.
  copy.hidden = !navigator.clipboard;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const head = element("div", element("span", language), copy);
  const block = element("div", head, element("pre", code));
  block.className = "code";
  return [block, code];
}

/** A table row's cells; `\|` is a bar within one. */
function cells(line) {
  const bare = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return bare.split(/(?<!\\)\|/, MAX_COLUMNS).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function row(name, texts, sides) {
  return element("tr", ...sides.map((side, index) => {
    const cell = element(name, ...inline(texts[index] ?? ""));
    cell.className = side;
    return cell;
  }));
}

/** Where each column's text stands, as the line below a table's head says. */
function sides(line) {
  return cells(line).map((cell) => {
    if (!cell.endsWith(":")) return "";
    return cell.startsWith(":") ? "center" : "right";
  });
}

/**
 * Draws a text that grows. A whole line is drawn once and stays; only the unfinished last one is drawn again when more
 * of it comes, so an answer costs what its length is, however many pieces it comes in.
 */
export class Markdown {
  constructor(node) {
    this.node = node;
    this.unfinished = "";
    // What the unfinished line added.
    this.drawn = [];
    // The block that the next line may go on with: { kind, node, … }.
    this.block = null;
  }

  add(text) {
    const lines = (this.unfinished + text).split("\n");
    this.unfinished = lines.pop();
    this.drawn.forEach((node) => node.remove());
    for (const line of lines) this.block = this.line(line.replace(/\r$/, ""), true).block;
    this.drawn = this.unfinished ? this.line(this.unfinished, false).added : [];
  }

  /** Draws a line: what it added, and the block that the next may go on with. */
  line(line, isWhole) {
    if (this.block?.kind === "code") return this.code(line);
    const fence = line.match(FENCE);
    const heading = line.match(HEADING);
    const item = line.match(ITEM);
    // ```code``` in one line is no block.
    if (fence && !line.slice(fence[0].length).includes("`")) {
      const [node, code] = codeBlock(fence[2]);
      return this.begin(node, { kind: "code", node: code, fence: fence[1] });
    }
    if (heading) return this.begin(element(heading[1].length < 3 ? "h3" : "h4", ...inline(line.slice(heading[0].length))));
    if (RULE.test(line)) return this.begin(element("hr"));
    if (item) return this.item(line.slice(item[0].length), item[1]);
    if (line.startsWith(">")) return this.begin(element("blockquote", ...inline(line.replace(/^>\s?/, ""))));
    if (line.trim() === "") return { added: [], block: null };
    if (this.block?.kind === "table" && line.includes("|")) return this.into(row("td", cells(line), this.block.sides));
    // The head of a table was drawn as a paragraph's line, before the line below it was there.
    if (isWhole && this.block?.kind === "paragraph" && this.isHead(this.block.last, line)) return this.table(line);
    return this.paragraph(line);
  }

  begin(node, block = null) {
    this.node.append(node);
    return { added: [node], block };
  }

  into(...nodes) {
    this.block.node.append(...nodes);
    return { added: nodes, block: this.block };
  }

  code(line) {
    const { fence, node } = this.block;
    if (line.trim().startsWith(fence)) return { added: [], block: null };
    return this.into(document.createTextNode(node.firstChild ? `\n${line}` : line));
  }

  item(text, number) {
    const kind = number ? "ol" : "ul";
    const item = element("li", ...inline(text));
    if (this.block?.kind === kind) return this.into(item);
    const list = element(kind, item);
    if (number) list.start = Number(number);
    return this.begin(list, { kind, node: list });
  }

  paragraph(line) {
    const text = element("span", ...inline(line));
    if (this.block?.kind !== "paragraph") {
      const node = element("p", text);
      return this.begin(node, { kind: "paragraph", node, last: line });
    }
    const added = this.into(element("br"), text).added;
    return { added, block: { ...this.block, last: line } };
  }

  isHead(head, line) {
    const below = cells(line);
    return head.includes("|") && below.every((cell) => SIDE.test(cell)) && cells(head).length === below.length;
  }

  table(line) {
    const { node: paragraph, last: head } = this.block;
    // Its line and the break before it.
    paragraph.lastChild.remove();
    paragraph.lastChild?.remove();
    if (!paragraph.firstChild) paragraph.remove();
    const columns = sides(line);
    const body = element("tbody");
    const node = element("div", element("table", element("thead", row("th", cells(head), columns)), body));
    node.className = "table";
    return this.begin(node, { kind: "table", node: body, sides: columns });
  }
}
