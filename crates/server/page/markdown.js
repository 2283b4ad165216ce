// Markdown to DOM nodes: what language models write. Nodes are built, never parsed from HTML, so no answer
// can run anything.

const INLINE = /(`+)([^`]|[^`].*?[^`])\1|\*\*(.+?)\*\*|(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?!\w)|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/gs;

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, match.index));
    const [whole, , code, bold, italic, label, address] = match;
    if (code !== undefined) nodes.push(element("code", code));
    else if (bold !== undefined) nodes.push(element("strong", ...inline(bold)));
    else if (italic !== undefined) nodes.push(element("em", ...inline(italic)));
    else {
      const link = element("a", ...inline(label));
      link.href = address;
      link.rel = "noopener noreferrer";
      link.target = "_blank";
      nodes.push(link);
    }
    end = match.index + whole.length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

function codeBlock(lines, language) {
  const code = element("code", lines.join("\n"));
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
  const block = element("div", element("pre", code), copy);
  block.className = "code";
  return block;
}

const ITEM = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)$/;

/** The blocks of a text. Unfinished ones, as in a stream, are shown as far as they go. */
export function markdown(text) {
  const lines = text.split("\n");
  const blocks = [];
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) {
      const parts = paragraph.flatMap((line, index) => (index ? [element("br"), ...inline(line)] : inline(line)));
      blocks.push(element("p", ...parts));
    }
    paragraph = [];
  };
  for (let index = 0; index < lines.length; index++) {
    const line = lines[index];
    const fence = line.match(/^\s*(```+|~~~+)\s*(\S*)/);
    const heading = line.match(/^(#{1,6})\s+(.*)$/);
    const item = line.match(ITEM);
    if (fence) {
      flush();
      const code = [];
      while (++index < lines.length && !lines[index].trim().startsWith(fence[1])) code.push(lines[index]);
      blocks.push(codeBlock(code, fence[2]));
    } else if (heading) {
      flush();
      blocks.push(element(heading[1].length < 3 ? "h3" : "h4", ...inline(heading[2])));
    } else if (item) {
      flush();
      const list = element(item[1] ? "ol" : "ul");
      if (item[1]) list.start = Number(item[1]);
      for (let next = item; next; next = lines[++index]?.match(ITEM)) list.append(element("li", ...inline(next[2])));
      index--;
      blocks.push(list);
    } else if (line.startsWith(">")) {
      flush();
      blocks.push(element("blockquote", ...inline(line.replace(/^>\s?/, ""))));
    } else if (line.trim() === "") {
      flush();
    } else {
      paragraph.push(line);
    }
  }
  flush();
  return blocks;
}
