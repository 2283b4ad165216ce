// Marks within a line of Markdown: code, bold, italic, links. A line costs what its length is, whatever stands in it.

/** A line has no more marks than this, and none deeper; what is left of it is plain. */
const MAX_MARKS = 2000;
const MAX_DEPTH = 4;
const MARK = /`+|\*|\[/g;
const ADDRESS = /\]\(https?:\/\//y;
const WORD = /\w/;
const SPACE = /\s/;

export function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

/** Where a search from a place leads, or Infinity. Asked from places that only grow, it reads the text once. */
function finder(search) {
  let at = 0;
  return (from) => {
    if (at < from) at = search(from);
    if (at === -1) at = Infinity;
    return at;
  };
}

/** Where each run of backticks has its match: the next run of the same length. */
function fences(text) {
  const matches = new Map();
  const latest = new Map();
  for (const { 0: run, index } of [...text.matchAll(/`+/g)].reverse()) {
    if (latest.has(run.length)) matches.set(index, latest.get(run.length));
    latest.set(run.length, index);
  }
  return matches;
}

class Line {
  constructor(text, depth, left) {
    Object.assign(this, { text, depth, left });
    const part = (part) => finder((from) => text.indexOf(part, from));
    [this.star, this.stars, this.bracket, this.parenthesis] = ["*", "**", "]", ")"].map(part);
    const space = /\s/g;
    this.space = finder((from) => {
      space.lastIndex = from;
      return space.exec(text)?.index ?? -1;
    });
    this.fences = text.includes("`") ? fences(text) : new Map();
  }

  within(text) {
    return nodes(text, this.depth + 1, this.left);
  }

  /** The element that begins with a mark at `start`, and where it ends; nothing where the mark is only itself. */
  at(mark, start) {
    if (mark === "[") return this.link(start);
    if (mark === "*") return this.bold(start) ?? this.italic(start);
    return this.code(mark, start);
  }

  code(run, start) {
    const close = this.fences.get(start);
    if (close === undefined) return undefined;
    const code = this.text.slice(start + run.length, close);
    const padded = code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "";
    return [element("code", padded ? code.slice(1, -1) : code), close + run.length];
  }

  bold(start) {
    const { text } = this;
    if (text[start + 1] !== "*") return undefined;
    let close = this.stars(start + 3);
    if (close === Infinity) return undefined;
    // ***both***: the third star ends what is italic within.
    if (text[start + 2] === "*" && text[close + 2] === "*") close++;
    return [element("strong", ...this.within(text.slice(start + 2, close))), close + 2];
  }

  italic(start) {
    const { text } = this;
    const close = this.star(start + 1);
    if (close === start + 1 || close === Infinity || (start > 0 && (text[start - 1] === "*" || WORD.test(text[start - 1])))) return undefined;
    if (SPACE.test(text[start + 1]) || SPACE.test(text[close - 1]) || WORD.test(text[close + 1] ?? "")) return undefined;
    return [element("em", ...this.within(text.slice(start + 1, close))), close + 1];
  }

  link(start) {
    const close = this.bracket(start + 1);
    if (close === start + 1 || close === Infinity) return undefined;
    ADDRESS.lastIndex = close;
    if (!ADDRESS.test(this.text)) return undefined;
    const begin = ADDRESS.lastIndex;
    const end = this.parenthesis(begin);
    if (end === begin || end === Infinity || this.space(begin) < end) return undefined;
    const link = element("a", ...this.within(this.text.slice(start + 1, close)));
    link.href = this.text.slice(close + 2, end);
    link.rel = "noopener noreferrer";
    link.target = "_blank";
    return [link, end + 1];
  }
}

function nodes(text, depth, left) {
  if (depth > MAX_DEPTH) return [text];
  const line = new Line(text, depth, left);
  const found = [];
  let end = 0;
  for (const { 0: mark, index } of text.matchAll(MARK)) {
    if (index < end) continue;
    if (left.marks === 0) break;
    const [node, after] = line.at(mark, index) ?? [];
    if (!node) continue;
    left.marks--;
    found.push(text.slice(end, index), node);
    end = after;
  }
  found.push(text.slice(end));
  return found.filter((part) => part !== "");
}

/** The nodes of a line. Nodes are built, never parsed from HTML, so no answer can run anything. */
export function inline(text) {
  return nodes(text, 0, { marks: MAX_MARKS });
}
