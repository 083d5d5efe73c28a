// One conversation with one model: its messages, the answer under way, and what each answer cost.

import { copyText } from "./copying.js";
import { ChatError, streamChat } from "./chat_stream.js";
import { showProse } from "./prose.js";
import { splitThoughts } from "./thoughts.js";

const LONGEST_WAIT_S = 10;
const LEAST_RATE_MS = 500; // within less a rate says nothing: pieces come in bursts

export class Column {
  #root;
  #thread;
  #tools;
  #messages = [];
  #abort = null;
  #unanswered = null; // the form for results of functions that the model called
  #failed = null; // a question that had no answer: it goes along with no other, and can be asked again

  // `tools`: { access, words, fill(name) -> element of a template, request() -> parameters, changed() }.
  constructor(root, tools) {
    this.#root = root;
    this.#thread = root.querySelector("[data-thread]");
    this.#tools = tools;
  }

  get model() {
    return this.#root.querySelector("select").value;
  }

  get busy() {
    return this.#abort !== null;
  }

  get isEmpty() {
    return this.#messages.length === 0;
  }

  // The messages as they would be sent next.
  get messages() {
    return this.#messages;
  }

  async ask(text) {
    this.#skipResults();
    this.#failed = null;
    this.#messages.push({ role: "user", content: text });
    this.#showQuestion(text);
    this.#thread.scrollTop = this.#thread.scrollHeight;
    await this.#answer();
  }

  // Make the last answer anew.
  async again() {
    this.#unanswered = null;
    if (this.#failed) this.#messages.push(this.#failed);
    else if (this.#messages.at(-1)?.role === "assistant") this.#messages.pop();
    this.#failed = null;
    if (this.#thread.lastElementChild?.dataset.turn === "assistant") this.#thread.lastElementChild.remove();
    await this.#answer();
  }

  stop() {
    this.#abort?.abort();
  }

  clear() {
    this.stop();
    this.#unanswered = null;
    this.#failed = null;
    this.#messages = [];
    this.#thread.replaceChildren();
  }

  // A conversation as `messages` had it before the page was left.
  restore(model, messages) {
    const select = this.#root.querySelector("select");
    if ([...select.options].some((option) => option.value === model)) select.value = model;
    this.#messages = messages;
    messages.forEach((message, n) => {
      if (message.role === "user") this.#showQuestion(message.content);
      if (message.role !== "assistant") return;
      const turn = this.#tools.fill("assistant");
      this.#thread.append(turn);
      const answer = new Answer(turn, this.#tools.words, this.#thread);
      answer.restore(message);
      if (n === messages.length - 1) this.#offer(turn, answer);
    });
    this.#thread.scrollTop = this.#thread.scrollHeight;
  }

  // What would be kept of it if the page were left now.
  get kept() {
    const whole = this.#messages.at(-1)?.role === "user" ? this.#messages.slice(0, -1) : this.#messages;
    return { model: this.model, messages: whole };
  }

  #showQuestion(text) {
    const turn = this.#tools.fill("user");
    turn.querySelector("[data-text]").textContent = text;
    this.#thread.append(turn);
  }

  async #answer() {
    const { access, fill, changed } = this.#tools;
    const messages = this.#messages; // another list by the time of the end, if all was cleared meanwhile
    const turn = fill("assistant");
    for (const old of this.#thread.querySelectorAll("[data-again]")) old.hidden = true;
    this.#thread.append(turn);
    this.#abort = new AbortController();
    const answer = new Answer(turn, this.#tools.words, this.#thread);
    changed();
    try {
      await this.#stream(answer, this.#abort.signal);
    } catch (error) {
      if (error.name !== "AbortError") answer.fail(error);
      else answer.note(this.#tools.words.stopped);
    } finally {
      const wasCut = this.#abort.signal.aborted;
      this.#abort = null;
      answer.close();
      if (answer.message) messages.push(answer.message);
      else if (messages === this.#messages && messages.at(-1)?.role === "user") this.#failed = messages.pop();
      if (answer.id) answer.figures(await access.row(answer.id, wasCut ? 6 : 2).catch(() => null));
      answer.keepInView(() => this.#offer(turn, answer));
      changed();
    }
  }

  async #stream(answer, signal) {
    const { access, request, words } = this.#tools;
    for (;;) {
      try {
        const body = { model: this.model, ...request(this.#messages) };
        answer.begin();
        for await (const event of streamChat(await access.key(), body, signal)) answer.add(event);
        return;
      } catch (error) {
        if (!(error instanceof ChatError)) throw error;
        if (error.status === 401 && answer.begin(true)) {
          access.forget(); // it expired, or somebody revoked it
          continue;
        }
        if (error.code !== "loading") throw error;
        const done = error.progress === null ? "" : ` ${Math.floor(error.progress * 100)} %`;
        answer.note(`${words.loading}${done}`);
        await pause(Math.min(error.retryAfterS ?? 1, LONGEST_WAIT_S) * 1000, signal);
      }
    }
  }

  #offer(turn, answer) {
    const actions = turn.querySelector("[data-actions]");
    actions.hidden = false;
    turn.querySelector("[data-copy-answer]").hidden = !answer.message?.content;
    turn.querySelector("[data-copy-answer]").addEventListener("click", () => copyText(answer.message.content));
    turn.querySelector("[data-again]").addEventListener("click", () => this.again());
    if (answer.calls.length) this.#askResults(turn, answer.calls);
  }

  // The model wants functions called: whoever sits here plays them.
  #askResults(turn, calls) {
    const form = this.#tools.fill("results");
    for (const call of calls) {
      const field = this.#tools.fill("result");
      field.querySelector("[data-name]").textContent = call.function.name;
      field.querySelector("textarea").dataset.call = call.id;
      form.querySelector("[data-fields]").append(field);
    }
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) return;
      this.#skipResults();
      this.#answer();
    });
    turn.append(form);
    this.#unanswered = form;
  }

  // Engines refuse a conversation in which a call has no result, so one that nobody gave is empty.
  #skipResults() {
    const form = this.#unanswered;
    this.#unanswered = null;
    if (!form) return;
    for (const field of form.querySelectorAll("textarea"))
      this.#messages.push({ role: "tool", tool_call_id: field.dataset.call, content: field.value });
    form.querySelector("fieldset").disabled = true;
    form.querySelector("[data-send-results]").remove();
  }
}

// One answer while it arrives, and its place on the page.
class Answer {
  id = "";
  text = "";
  calls = [];
  #turn;
  #words;
  #thread;
  #reasoning = "";
  #started = 0;
  #first = 0;
  #frame = 0;
  #triedAgain = false;

  constructor(turn, words, thread) {
    this.#turn = turn;
    this.#words = words;
    this.#thread = thread;
    turn.setAttribute("aria-busy", "true");
  }

  // A request starts. With `retry`: false when that was tried before.
  begin(retry = false) {
    if (retry && this.#triedAgain) return false;
    this.#triedAgain ||= retry;
    this.#started = performance.now();
    return true;
  }

  // What goes into the conversation; null when nothing came.
  get message() {
    const { said } = splitThoughts(this.text);
    if (!said && !this.calls.length) return null;
    const message = { role: "assistant", content: said || null };
    return this.calls.length ? { ...message, tool_calls: this.calls } : message;
  }

  add(event) {
    this.id ||= event.id;
    const choice = event.choices[0];
    if (event.limit_reached) this.note(event.limit_reached);
    if (!choice) return;
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta;
    if (!content && !reasoning && !calls) return;
    if (!this.#first) {
      this.#first = performance.now();
      this.note("");
    }
    this.text += content ?? "";
    this.#reasoning += reasoning ?? "";
    for (const part of calls ?? []) this.#addCall(part);
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  note(text) {
    const place = this.#turn.querySelector("[data-note]");
    place.textContent = text;
    place.hidden = !text;
  }

  restore(message) {
    this.text = message.content ?? "";
    this.calls = message.tool_calls ?? [];
    this.close();
  }

  fail(error) {
    this.note("");
    const place = this.#turn.querySelector("[data-fault]");
    const hint = error.status >= 500 || this.id ? ` ${this.#words.retry}` : "";
    place.textContent = this.#words.faults[error.code] ?? `${error.message}${hint}`;
    if (error.code === "signed_out") {
      const link = document.createElement("a");
      link.href = `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
      link.textContent = this.#words.sign_in;
      place.append(" ", link);
    }
    place.hidden = false;
  }

  close() {
    cancelAnimationFrame(this.#frame);
    this.#show();
    this.#turn.removeAttribute("aria-busy");
  }

  // By the ledger's row when there is one; what the browser measured stands for what it lacks.
  figures(row) {
    const language = document.documentElement.lang;
    const whole = new Intl.NumberFormat(language);
    const shown = [];
    const put = (word, value) => value !== null && shown.push([this.#words[word], value]);
    const ttftMs = row?.ttft_ms ?? (this.#first ? Math.round(this.#first - this.#started) : null);
    put("ttft", ttftMs === null ? null : `${whole.format(ttftMs)} ms`);
    if (row) {
      const made = row.output_tokens + row.reasoning_tokens;
      // Of the time from the first piece to the last.
      const tookMs = row.duration_ms - (row.ttft_ms ?? 0);
      const rate = new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format((made * 1000) / tookMs);
      put("speed", made > 1 && tookMs >= LEAST_RATE_MS ? rate : null);
      put("input", whole.format(row.input_tokens + row.cached_input_tokens));
      put("output", whole.format(made));
      const money = new Intl.NumberFormat(language, { minimumFractionDigits: 2, maximumFractionDigits: 9 });
      put("cost", `${money.format(row.cost)} ${row.currency}`);
      put("backend", row.machine_name && `${row.machine_name} · ${row.engine_type}`);
      put("routing", this.#words.routings[row.routing_reason] ?? row.routing_reason);
    }
    this.keepInView(() => {
      const list = this.#turn.querySelector("[data-figures]");
      list.replaceChildren(...shown.map(([name, value]) => pair(name, value)));
      list.hidden = !shown.length;
    });
  }

  // Whatever is put at the end of the conversation can be seen by who looks at its end.
  keepInView(change) {
    const near = this.#isNear();
    change();
    if (near) this.#thread.scrollTop = this.#thread.scrollHeight;
  }

  #addCall(part) {
    this.calls[part.index] ??= { id: part.id, type: "function", function: { name: part.function.name, arguments: "" } };
    this.calls[part.index].function.arguments += part.function.arguments ?? "";
  }

  // Whether the end of the conversation is looked at, so that it should stay in view.
  #isNear() {
    return this.#thread.scrollHeight - this.#thread.scrollTop - this.#thread.clientHeight < 80;
  }

  #show() {
    this.#frame = 0;
    const near = this.#isNear();
    const { thoughts, said } = splitThoughts(this.text);
    const reasoning = [this.#reasoning, thoughts].filter(Boolean).join("\n");
    const box = this.#turn.querySelector("[data-reasoning]");
    box.hidden = !reasoning;
    box.querySelector("[data-text]").textContent = reasoning;
    showProse(this.#turn.querySelector("[data-prose]"), said);
    const calls = this.#turn.querySelector("[data-calls]");
    calls.hidden = !this.calls.length;
    calls.textContent = this.calls.map((call) => `${call.function.name}(${call.function.arguments})`).join("\n");
    if (near) this.#thread.scrollTop = this.#thread.scrollHeight;
  }
}

function pair(name, value) {
  const box = document.createElement("div");
  const term = document.createElement("dt");
  const told = document.createElement("dd");
  term.textContent = name;
  told.textContent = value;
  box.append(term, told);
  return box;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("", "AbortError"));
    });
  });
}
