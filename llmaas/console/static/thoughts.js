// What a model thought aloud in its answer, between tags that its engine did not move: `<think>…</think>` and the like.

const TAGS = /^[ \t]*(?:<(think|thinking|thought)>|\[THINK\])/im;
const CLOSING = /^[ \t]*(?:<\/(?:think|thinking|thought)>|\[\/THINK\])[ \t]*$/im;

// { thoughts, said } of a text that may still grow. A tag counts at the beginning of a line, so that prose may speak of it.
export function splitThoughts(text) {
  let said = text;
  let thoughts = "";
  const open = TAGS.exec(said);
  const lone = CLOSING.exec(said);
  // Some templates put the opening tag into the prompt: then the answer has but the closing one.
  if (lone && (!open || lone.index < open.index)) {
    thoughts = said.slice(0, lone.index);
    said = said.slice(lone.index + lone[0].length);
  }
  for (let tag = TAGS.exec(said); tag; tag = TAGS.exec(said)) {
    const inner = said.slice(tag.index + tag[0].length);
    const end = /<\/(?:think|thinking|thought)>|\[\/THINK\]/i.exec(inner);
    thoughts += `${thoughts && "\n"}${end ? inner.slice(0, end.index) : inner}`;
    said = said.slice(0, tag.index) + (end ? inner.slice(end.index + end[0].length) : "");
  }
  return { thoughts: thoughts.trim(), said: thoughts ? said.replace(/^\s+/, "") : said };
}
