// What a chart's column says, at once and beside the pointer. Without this the browser shows the same words after a while.

const tip = document.createElement("div");
tip.className = "chart-tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");

function place(event) {
  const column = event.target.closest?.("g.column");
  if (!column) return hide();
  show(column, event.clientX, event.clientY);
}

function show(column, x, y) {
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
  const left = Math.min(x + 12, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const top = Math.min(y + 12, window.innerHeight - tip.offsetHeight - 8);
  tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
}

function hide() {
  tip.hidden = true;
}

document.body.append(tip);
document.addEventListener("pointermove", place, { passive: true });
document.addEventListener("pointerdown", place, { passive: true });
document.addEventListener("scroll", hide, { passive: true, capture: true });

// By keyboard a chart is one stop; arrows go from column to column, and what one says is read out.
const spoken = document.createElement("div");
spoken.className = "visually-hidden";
spoken.setAttribute("role", "status");
document.querySelector("main").append(spoken);

function go(drawing, step) {
  const columns = [...drawing.querySelectorAll("g.column")];
  const before = columns.findIndex((column) => column.classList.contains("is-here"));
  const here = before < 0 ? columns.length - 1 : Math.min(columns.length - 1, Math.max(0, before + step));
  leave(drawing);
  columns[here].classList.add("is-here");
  const box = columns[here].getBoundingClientRect();
  show(columns[here], box.right, box.top);
  spoken.textContent = columns[here].dataset.told.replaceAll("\n", ". ");
}

function leave(drawing) {
  drawing.querySelector("g.is-here")?.classList.remove("is-here");
  hide();
}

const STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
document.addEventListener("keydown", (event) => {
  const drawing = event.target.closest?.(".chart-drawing");
  if (drawing && event.key in STEPS) {
    event.preventDefault();
    go(drawing, STEPS[event.key]);
  } else if (drawing && event.key === "Escape") leave(drawing);
});
document.addEventListener("focusin", (event) => event.target.matches(".chart-drawing") && event.target.matches(":focus-visible") && go(event.target, 0));
document.addEventListener("focusout", (event) => event.target.matches(".chart-drawing") && leave(event.target));
