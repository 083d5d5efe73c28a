// What was typed in a form under which the session ended goes to the sign-in provider and back in this tab. It is sealed: only
// the service can read it.

const STORED = "llmaas-typed";
const link = document.querySelector("a[data-open-id]");
const back = document.querySelector("form[data-kept]");
const typed = document.querySelector("input[name=typed]");

if (document.querySelector("form[data-resume]")) sessionStorage.removeItem(STORED);
if (link) {
  const earlier = sessionStorage.getItem(STORED);
  if (typed) link.addEventListener("click", () => sessionStorage.setItem(STORED, typed.value));
  else if (earlier) link.search = "next=/sign-in/resume"; // the provider was gone to before, and did not sign in
}
if (back) {
  typed.value = sessionStorage.getItem(STORED) ?? "";
  sessionStorage.removeItem(STORED);
  back.requestSubmit();
}
