// What a model wrote, as text: prose, and code between ``` fences in boxes of its own. Makes text nodes only, never markup.

const FENCE = /^\s*```/;

// Brings `target` to show `text`; parts that are there already stay, so it can be called for every piece of a stream.
export function showProse(target, text) {
  const parts = split(text);
  parts.forEach((part, n) => {
    let node = target.children[n];
    const tag = part.isCode ? "PRE" : "P";
    if (node?.tagName !== tag) {
      const fresh = document.createElement(tag);
      if (part.isCode) {
        fresh.append(document.createElement("code"));
        fresh.tabIndex = 0; // wide code scrolls, also by keyboard
      }
      if (node) node.replaceWith(fresh);
      else target.append(fresh);
      node = fresh;
    }
    const holder = part.isCode ? node.firstChild : node;
    if (holder.textContent !== part.text) holder.textContent = part.text;
  });
  while (target.children.length > parts.length) target.lastElementChild.remove();
}

function split(text) {
  const parts = [];
  let lines = [];
  let isCode = false;
  const close = () => {
    const joined = lines.join("\n");
    const shown = isCode ? joined : joined.replace(/^\n+|\s+$/g, "");
    if (shown) parts.push({ isCode, text: shown });
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (FENCE.test(line)) {
      close();
      isCode = !isCode;
    } else {
      lines.push(line);
    }
  }
  close();
  return parts;
}
