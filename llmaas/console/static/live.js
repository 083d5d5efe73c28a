// Keeps a part of a page fresh: fetches it anew every few seconds while the page is looked at, and says whether that works.

const EVERY_MS = 5000;
const LONGEST_MS = 8000;

const mark = document.querySelector("[data-live-mark]");
for (const place of document.querySelectorAll("[data-live]")) follow(place);

function follow(place) {
  let shown = place.innerHTML;
  let timer;
  let asking = false;

  // One of the words of the mark. Whatever goes wrong is asked again: servers come back, and readers sign in elsewhere.
  const renew = async () => {
    try {
      const answer = await fetch(place.dataset.live, {
        headers: { "x-fragment": "1" },
        cache: "no-store",
        signal: AbortSignal.timeout(LONGEST_MS),
      });
      if (answer.status === 401) return "out";
      if (!answer.ok) return "lost";
      const html = await answer.text();
      if (html !== shown && place.contains(document.activeElement)) return "paused";
      shown = show(place, html, shown);
      return "live";
    } catch {
      return "lost";
    }
  };
  const again = async () => {
    if (asking) return;
    clearTimeout(timer);
    if (!document.hidden) {
      asking = true;
      tell(await renew());
      asking = false;
    }
    timer = setTimeout(again, EVERY_MS);
  };
  document.addEventListener("visibilitychange", again);
  tell("live");
  timer = setTimeout(again, EVERY_MS);
}

function tell(state) {
  if (state === "live") mark.querySelector("time").textContent = new Date().toLocaleTimeString(document.documentElement.lang);
  if (mark.dataset.state === state) return; // said once, not every few seconds
  mark.dataset.state = state;
  for (const word of mark.querySelectorAll("[data-when]")) word.hidden = word.dataset.when !== state;
  mark.hidden = false;
}

// The text comes from our own server, where it was escaped. Parsing does not run anything in it, nor would the policy.
function show(place, html, shown) {
  if (html === shown) return shown;
  const parsed = new DOMParser().parseFromString(html, "text/html");
  place.replaceChildren(...parsed.body.childNodes);
  return html;
}
