// The playground: one or two conversations, a composer, parameters, and the request as a program.

import { Access } from "./playground_access.js";
import { Column } from "./playground_column.js";
import { Settings } from "./playground_settings.js";
import { snippet } from "./snippets.js";

const root = document.querySelector("[data-playground]");
const part = (name) => root.querySelector(`[data-${name}]`);
const words = JSON.parse(root.dataset.words);
const fill = (name) => document.getElementById(`playground-${name}`).content.firstElementChild.cloneNode(true);

const access = new Access(root.dataset.project, root.dataset.reader, root.dataset.csrf);
const settings = new Settings(part("settings"), words);
const request = (messages) => settings.request(messages);
const boxes = [...root.querySelectorAll("[data-column]")];
const columns = boxes.map((box) => new Column(box, { access, words, fill, request, changed }));
const composer = part("composer");
const text = composer.elements.namedItem("text");

const shown = () => columns.filter((_, n) => !boxes[n].hidden);
const busy = () => shown().some((column) => column.busy);

function changed() {
  const working = busy();
  part("send").hidden = working;
  part("stop").hidden = !working;
  part("clear").disabled = columns.every((column) => column.isEmpty);
  if (part("compare")) part("compare").disabled = working;
  boxes.forEach((box, n) => {
    box.querySelector("[data-empty]").hidden = !columns[n].isEmpty;
    box.querySelector("select").disabled = columns[n].busy;
  });
}

function send() {
  const said = text.value.trim();
  if (!said || busy() || !settings.check()) return;
  text.value = "";
  grow();
  for (const column of shown()) column.ask(said);
}

function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
text.addEventListener("input", grow);
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
part("stop").addEventListener("click", () => {
  for (const column of columns) column.stop();
  text.focus();
});
part("clear").addEventListener("click", () => {
  for (const column of columns) column.clear();
  changed();
  text.focus();
});
part("compare")?.addEventListener("click", () => {
  const second = boxes[1];
  second.hidden = !second.hidden;
  if (second.hidden) columns[1].clear();
  part("compare").setAttribute("aria-pressed", String(!second.hidden));
  root.classList.toggle("is-compared", !second.hidden);
  changed();
});

const panel = part("panel");
const panelButton = part("show-settings");
panelButton.addEventListener("click", () => {
  const open = panel.toggleAttribute("data-open");
  panelButton.setAttribute("aria-expanded", String(open));
  if (open) panel.querySelector("textarea").focus();
});

const dialog = part("export");
function showProgram() {
  const language = dialog.querySelector("input[name=language]:checked").value;
  const column = columns[0];
  const messages = column.isEmpty ? [{ role: "user", content: text.value.trim() || words.hello }] : column.messages;
  const asked = messages.at(-1).role === "assistant" ? messages.slice(0, -1) : messages;
  const body = { model: column.model, ...request(asked), stream: true };
  dialog.querySelector("code").textContent = snippet(language, root.dataset.baseUrl, body);
}
part("show-export").addEventListener("click", () => {
  if (!settings.check()) return;
  showProgram();
  dialog.showModal();
});
dialog.addEventListener("change", showProgram);

// Conversations are kept with this tab, so that leaving the page, or having to sign in, loses nothing.
const place = `llmaas-chat ${root.dataset.reader} ${root.dataset.project}`;
function keep() {
  const fields = [...part("settings").elements].filter((field) => field.name).map((field) => [field.name, field.value]);
  const kept = { columns: columns.map((column) => column.kept), compared: !boxes[1].hidden, text: text.value, fields };
  sessionStorage.setItem(place, JSON.stringify(kept));
}
function bringBack() {
  const kept = JSON.parse(sessionStorage.getItem(place) ?? "null");
  if (!kept) return;
  const asked = new URLSearchParams(location.search).get("model");
  kept.columns.forEach(({ model, messages }, n) => columns[n].restore(n || !asked ? model : columns[n].model, messages));
  for (const [name, value] of kept.fields) part("settings").elements.namedItem(name).value = value;
  part("settings").dispatchEvent(new Event("input"));
  if (kept.compared && part("compare")) part("compare").click();
  text.value = kept.text;
  grow();
}
window.addEventListener("pagehide", keep);

composer.querySelector("fieldset").disabled = false;
bringBack();
changed();
if (window.matchMedia("(min-width: 900px)").matches) text.focus();
