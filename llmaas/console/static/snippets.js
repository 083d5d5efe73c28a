// A chat request as a program: the same call for a shell, for Python and for JavaScript. The key is left to the environment.

export const LANGUAGES = ["curl", "python", "javascript"];

export function snippet(language, baseUrl, body) {
  if (language === "curl") return curl(baseUrl, body);
  return language === "python" ? python(baseUrl, body) : javascript(baseUrl, body);
}

function curl(baseUrl, body) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return [
    `curl ${baseUrl}/chat/completions \\`,
    `  -H "authorization: Bearer $LLMAAS_KEY" \\`,
    `  -H "content-type: application/json" \\`,
    `  -d '${json}'`,
  ].join("\n");
}

function python(baseUrl, body) {
  const call = Object.entries(body).map(([name, value]) => `    ${name}=${literal(value, 1)},`);
  const read = body.stream
    ? ["for chunk in answer:", "    if chunk.choices:", '        print(chunk.choices[0].delta.content or "", end="", flush=True)']
    : ["print(answer.choices[0].message.content)"];
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    "client = OpenAI(",
    `    base_url="${baseUrl}",`,
    '    api_key=os.environ["LLMAAS_KEY"],',
    ")",
    "answer = client.chat.completions.create(",
    ...call,
    ")",
    ...read,
  ].join("\n");
}

function javascript(baseUrl, body) {
  const read = body.stream
    ? ["for await (const chunk of answer) {", '  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");', "}"]
    : ["console.log(answer.choices[0].message.content);"];
  return [
    'import OpenAI from "openai";',
    "",
    "const client = new OpenAI({",
    `  baseURL: "${baseUrl}",`,
    "  apiKey: process.env.LLMAAS_KEY,",
    "});",
    `const answer = await client.chat.completions.create(${JSON.stringify(body, null, 2)});`,
    ...read,
  ].join("\n");
}

// A JSON value as Python writes it, indented by steps of four.
function literal(value, depth) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = "    ".repeat(depth + 1);
  const outer = "    ".repeat(depth);
  const parts = Array.isArray(value)
    ? value.map((item) => literal(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!parts.length) return open + close;
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${outer}${close}`;
}
