// The API reference: requests of the reader's making. The key is kept in this page's memory, and goes nowhere but here.

const LONGEST = 200_000;
const root = document.querySelector(".reference");
const words = root.dataset;
const credential = document.getElementById("credential");

root.querySelector("[data-credential]")?.addEventListener("submit", (event) => event.preventDefault());
for (const box of root.querySelectorAll("[data-attempt]")) prepare(box);

function prepare(box) {
  const form = box.querySelector("form");
  const sample = box.parentElement.querySelector("pre code");
  const stop = form.querySelector("[data-stop]");
  let abort = null;
  form.addEventListener("input", () => (sample.textContent = program(box)));
  form.addEventListener("change", () => (sample.textContent = program(box)));
  stop.addEventListener("click", () => abort?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!form.reportValidity()) return;
    const asked = request(box);
    if (asked.fault) {
      show(form, asked.fault, "", "");
      return;
    }
    abort = new AbortController();
    stop.hidden = false;
    try {
      await send(form, asked, abort.signal);
    } finally {
      stop.hidden = true;
    }
  });
}

// What the form says now; `fault` when its body is no JSON.
function request(box) {
  const fields = [...box.querySelectorAll("[data-in]")].filter((field) => field.value !== "");
  const of = (place) => fields.filter((field) => field.dataset.in === place).map((field) => [field.dataset.name, field.value]);
  let path = box.dataset.path;
  // A path of several parts keeps its slashes.
  for (const [name, value] of of("path")) path = path.replace(`{${name}}`, encodeURIComponent(value).replaceAll("%2F", "/"));
  const query = new URLSearchParams(of("query")).toString();
  const headers = Object.fromEntries(of("header"));
  const text = box.querySelector("[data-body]")?.value.trim() ?? "";
  let fault = "";
  if (text) {
    headers["content-type"] = "application/json";
    try {
      JSON.parse(text);
    } catch {
      fault = words.badJson;
    }
  }
  return { method: box.dataset.method, target: query ? `${path}?${query}` : path, headers, text, fault, isPublic: "public" in box.dataset };
}

async function send(form, asked, signal) {
  const headers = { ...asked.headers };
  const key = credential?.value.trim();
  if (key && !asked.isPublic) headers.authorization = `Bearer ${key}`;
  const began = performance.now();
  const took = () => `${Math.round(performance.now() - began)} ms`;
  show(form, "…", "", "");
  try {
    const answer = await fetch(asked.target, {
      method: asked.method,
      headers,
      body: asked.text || undefined,
      signal,
      credentials: "omit",
      cache: "no-store",
      redirect: "manual",
    });
    const status = answer.type === "opaqueredirect" ? "3xx" : `${answer.status} ${answer.statusText}`;
    let text = "";
    if (answer.body)
      for await (const piece of pieces(answer.body)) {
        text += piece;
        show(form, status, took(), text);
        if (text.length > LONGEST) break;
      }
    show(form, status, took(), pretty(text));
  } catch (error) {
    if (error.name !== "AbortError") show(form, words.network, "", "");
  }
}

async function* pieces(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function show(form, status, took, text) {
  const outcome = form.querySelector("[data-outcome]");
  outcome.hidden = false;
  outcome.querySelector("[data-status]").textContent = status;
  outcome.querySelector("[data-took]").textContent = took;
  const answer = outcome.querySelector("[data-answer]");
  answer.hidden = !text;
  answer.textContent = text.length > LONGEST ? `${text.slice(0, LONGEST)}\n${words.cut}` : text;
}

// The same call for a shell; the server makes the first one.
function program(box) {
  const { method, target, headers, text, isPublic } = request(box);
  const plain = method === "GET" || (method === "POST" && text);
  const quoted = /[?&{}]/.test(target) && target.includes("?") ? `'${words.baseUrl}${target}'` : `${words.baseUrl}${target}`;
  const lines = [`curl ${plain ? "" : `-X ${method} `}${quoted}`];
  if (!isPublic) lines.push(`-H "authorization: Bearer $${words.variable}"`);
  for (const [name, value] of Object.entries(headers)) lines.push(`-H "${name}: ${value.replaceAll('"', '\\"')}"`);
  if (text) lines.push(`-d '${text.replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}
