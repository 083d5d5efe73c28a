// The first answer: a real request with the key on the page. A model that is being loaded is asked again until it is there.

import { streamChat } from "./chat_stream.js";

const place = document.querySelector("[data-first-answer]");
const part = (name) => place.querySelector(`[data-${name}]`);
const words = place.dataset;
const again = part("again");
const MOST_TOKENS = 200;
const LONGEST_WAIT_S = 5;

async function ask() {
  again.hidden = true;
  part("answer").textContent = "";
  part("note").textContent = words.waiting;
  try {
    await answer();
  } catch (error) {
    part("note").textContent = error.code === "network" ? words.network : `${words.failed} ${error.message}`;
  }
  again.hidden = false;
}

async function answer() {
  const signal = new AbortController().signal;
  const body = { model: words.model, max_tokens: MOST_TOKENS, messages: [{ role: "user", content: part("question").textContent }] };
  const started = performance.now();
  let first = 0;
  for (;;) {
    try {
      for await (const event of streamChat(words.key, body, signal)) {
        const { content, reasoning_content: reasoning } = event.choices[0]?.delta ?? {};
        if (!content && !reasoning) continue;
        first ||= performance.now();
        part("note").textContent = content ? "" : words.reasoning;
        part("answer").append(content ?? "");
      }
      break;
    } catch (error) {
      if (error.code !== "loading") throw error;
      const done = error.progress === null ? "" : ` ${Math.floor(error.progress * 100)} %`;
      part("note").textContent = `${words.loading}${done}`;
      await new Promise((resolve) => setTimeout(resolve, Math.min(error.retryAfterS ?? 1, LONGEST_WAIT_S) * 1000));
    }
  }
  const whole = new Intl.NumberFormat(document.documentElement.lang);
  part("note").textContent = words.figures.replace("{ttft}", whole.format(Math.round((first || performance.now()) - started)));
}

again.addEventListener("click", ask);
ask();
