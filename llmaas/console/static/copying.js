// To the clipboard. Browsers give it to secure addresses only, and many installations are reached by plain HTTP in a network of
// their own: there a field that nobody sees is copied from.

export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  const before = document.activeElement;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  before?.focus();
}
