// On every page: times in the reader's zone, copying, menus that close. All pages work without it.

const language = document.documentElement.lang;
const shapes = {
  time: new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }),
  moment: new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" }),
  day: new Intl.DateTimeFormat(language, { dateStyle: "medium" }),
};

// Also called for parts that a script puts in later.
function tellLocally(part) {
  for (const time of part.querySelectorAll("time[data-shown]")) {
    const moment = new Date(time.dateTime);
    time.title = time.textContent;
    time.textContent = shapes[time.dataset.shown].format(moment);
    delete time.dataset.shown;
  }
  for (const zone of part.querySelectorAll("[data-zone]")) zone.textContent = shapes.time.resolvedOptions().timeZone;
}

tellLocally(document);
new MutationObserver((changes) => {
  for (const change of changes)
    for (const node of change.addedNodes) if (node.nodeType === Node.ELEMENT_NODE) tellLocally(node);
}).observe(document.body, { childList: true, subtree: true });

for (const button of document.querySelectorAll("[data-copy], [data-reveal], [data-check-all]")) button.hidden = false;

// What scrolls sideways can be scrolled by keyboard, and is no stop on the way when it does not.
const boxes = new ResizeObserver((seen) => {
  for (const { target } of seen) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const box of document.querySelectorAll(".table-box, table.as-is, .tabs")) boxes.observe(box);

// Who sent a form that was refused goes on at what is wrong with it.
const refused = document.querySelector("#faults, main form .notice.bad");
if (refused) {
  refused.tabIndex = -1;
  refused.focus();
}

// Who had to sign in again goes on to the form; its handler fills it in and does nothing.
document.querySelector("form[data-resume]")?.requestSubmit();

document.addEventListener("click", async (event) => {
  const eye = event.target.closest("[data-reveal]");
  if (eye) {
    const input = document.getElementById(eye.dataset.reveal);
    const shown = input.type === "password";
    input.type = shown ? "text" : "password";
    eye.setAttribute("aria-pressed", shown);
  }
  const all = event.target.closest("[data-check-all]");
  if (all) {
    const boxes = [...document.querySelectorAll(`#${all.dataset.checkAll} input[type=checkbox]`)];
    const wanted = boxes.some((box) => !box.checked);
    for (const box of boxes) box.checked = wanted;
    all.setAttribute("aria-pressed", wanted);
  }
  const button = event.target.closest("[data-copy]");
  if (button) {
    const { copyText } = await import("./copying.js"); // only now: nothing of the page waits for it
    await copyText(document.getElementById(button.dataset.copy).textContent);
    const label = button.querySelector("[data-word]") ?? button;
    const word = label.textContent;
    label.textContent = button.dataset.done;
    setTimeout(() => (label.textContent = word), 1600);
  }
  for (const menu of document.querySelectorAll("details.menu[open]"))
    if (!menu.contains(event.target)) menu.open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  } else if (location.hash === "#side") {
    location.hash = "#main";
    document.querySelector(".topbar a").focus();
  }
});

// Who signs out leaves nothing in this tab: no conversation, and no key of the playground that works.
document.addEventListener("submit", (event) => {
  if (event.target.getAttribute("action") !== "/sign-out") return;
  const headers = { "x-csrf-token": event.target.elements.csrf.value };
  for (const [name, text] of Object.entries(sessionStorage)) {
    if (!name.startsWith("llmaas-key ")) continue;
    const { project, id } = JSON.parse(text);
    fetch(`/api/v1/projects/${project}/keys/${id}`, { method: "DELETE", headers, keepalive: true }).catch(() => {});
  }
  sessionStorage.clear();
});

// A form that is on its way is not sent twice.
document.addEventListener("submit", (event) => {
  for (const button of event.target.querySelectorAll("button[data-once]")) {
    setTimeout(() => (button.disabled = true));
    setTimeout(() => (button.disabled = false), 8000);
  }
});
