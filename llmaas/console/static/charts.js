// What a chart's column says, at once and beside the pointer. Without this the browser shows the same words after a while.

const tip = document.createElement("div");
tip.className = "chart-tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");

function place(event) {
  const column = event.target.closest?.("g.column");
  if (!column) return hide();
  const title = column.querySelector("title");
  if (title) {
    // Kept aside, or the browser would show it too.
    column.dataset.told = title.textContent;
    title.remove();
  }
  const [label, ...values] = column.dataset.told.split("\n");
  tip.replaceChildren(...[label, ...values].map((line, n) => {
    const row = document.createElement(n ? "span" : "strong");
    row.textContent = line;
    return row;
  }));
  tip.hidden = false;
  const left = Math.min(event.clientX + 12, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const top = Math.min(event.clientY + 12, window.innerHeight - tip.offsetHeight - 8);
  tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
}

function hide() {
  tip.hidden = true;
}

document.body.append(tip);
document.addEventListener("pointermove", place, { passive: true });
document.addEventListener("pointerdown", place, { passive: true });
document.addEventListener("scroll", hide, { passive: true, capture: true });
