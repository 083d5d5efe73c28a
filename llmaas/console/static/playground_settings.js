// The parameters of the playground's form as fields of a chat request; what is wrong is said beside its field.

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty"];
const MOST_STOPS = 4;

export class Settings {
  #form;
  #words;

  constructor(form, words) {
    this.#form = form;
    this.#words = words;
    form.addEventListener("input", () => this.#showParts());
    form.addEventListener("submit", (event) => event.preventDefault());
    this.#showParts();
  }

  // Whether all fields can be sent; brings the first one that cannot into view.
  check() {
    for (const box of this.#form.querySelectorAll("[data-fault-of]")) this.#mark(box.dataset.faultOf, "");
    const faults = [];
    const note = (name, text) => faults.push([name, text]);
    for (const name of NUMBERS) if (!this.#field(name).validity.valid) note(name, this.#words.bad_number);
    if (this.#stops().length > MOST_STOPS) note("stop", this.#words.bad_stop);
    if (this.#value("format") === "json_schema" && !isObject(parsed(this.#value("schema")))) note("schema", this.#words.bad_schema);
    if (this.#value("tools").trim() && !areTools(parsed(this.#value("tools")))) note("tools", this.#words.bad_tools);
    for (const [name, text] of faults) this.#mark(name, text);
    if (!faults.length) return true;
    const first = this.#field(faults[0][0]);
    for (let part = first.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
    first.focus();
    return false;
  }

  // The fields of a request besides its model, with the system prompt before the messages.
  request(messages) {
    const system = this.#value("system").trim();
    const body = { messages: system ? [{ role: "system", content: system }, ...messages] : [...messages] };
    for (const name of NUMBERS) if (this.#value(name) !== "") body[name] = Number(this.#value(name));
    if (this.#stops().length) body.stop = this.#stops();
    const format = this.#value("format");
    if (format === "json_object") body.response_format = { type: format };
    if (format === "json_schema") {
      const schema = { name: "answer", schema: parsed(this.#value("schema")), strict: true };
      body.response_format = { type: format, json_schema: schema };
    }
    if (this.#value("tools").trim()) {
      body.tools = parsed(this.#value("tools"));
      body.tool_choice = this.#value("tool_choice");
    }
    return body;
  }

  #field(name) {
    return this.#form.elements.namedItem(name);
  }

  #value(name) {
    return this.#field(name).value;
  }

  #stops() {
    return this.#value("stop").split("\n").filter(Boolean);
  }

  #showParts() {
    this.#form.querySelector("[data-part=schema]").hidden = this.#value("format") !== "json_schema";
    this.#form.querySelector("[data-part=tool_choice]").hidden = !this.#value("tools").trim();
  }

  #mark(name, text) {
    const box = this.#form.querySelector(`[data-fault-of=${name}]`);
    box.textContent = text;
    box.hidden = !text;
    if (text) this.#field(name).setAttribute("aria-invalid", "true");
    else this.#field(name).removeAttribute("aria-invalid");
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function areTools(value) {
  return Array.isArray(value) && value.every((tool) => tool?.type === "function" && typeof tool.function?.name === "string");
}
