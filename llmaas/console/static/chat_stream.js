// One streamed chat request to /v1: its events one by one, and one form for whatever goes wrong.

export class ChatError extends Error {
  // `code`: that of the API, or `network` (no answer at all) or `broken` (the stream ended too early).
  constructor(message, { status = 0, code = null, retryAfterS = null, progress = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
    this.progress = progress;
  }
}

// Yields each event of the stream, parsed. Throws ChatError, or the AbortError of `signal`.
export async function* streamChat(key, body, signal) {
  let response;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json", "x-llmaas-explain": "1" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ChatError("", { code: "network" });
  }
  if (!response.ok) throw await refusal(response);
  for await (const data of events(response.body, signal)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ChatError(event.error.message, { status: response.status, code: event.error.code });
    yield event;
  }
  throw new ChatError("", { code: "broken" });
}

async function* events(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ChatError("", { code: "broken" });
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function refusal(response) {
  const retryAfterS = Number(response.headers.get("retry-after")) || null;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not our envelope: something between the browser and the gateway answered.
  }
  const { message = `HTTP ${response.status}`, code = null, progress = null } = error;
  return new ChatError(message, { status: response.status, code, retryAfterS, progress });
}
