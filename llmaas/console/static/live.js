// Keeps a part of a page fresh: fetches it anew every few seconds while the page is looked at.

const EVERY_MS = 5000;

for (const place of document.querySelectorAll("[data-live]")) follow(place);

function follow(place) {
  let shown = place.innerHTML;
  const again = async () => {
    if (!document.hidden && !place.contains(document.activeElement)) {
      try {
        const answer = await fetch(place.dataset.live, { headers: { "x-fragment": "1" }, cache: "no-store" });
        if (answer.status === 401) return; // signed out: what is there stays until the next click
        if (answer.ok) shown = show(place, await answer.text(), shown);
      } catch {
        // Not reachable now; the next round may be.
      }
    }
    setTimeout(again, EVERY_MS);
  };
  setTimeout(again, EVERY_MS);
}

// The text comes from our own server, where it was escaped. Parsing does not run anything in it, nor would the policy.
function show(place, html, shown) {
  if (html === shown) return shown;
  const parsed = new DOMParser().parseFromString(html, "text/html");
  place.replaceChildren(...parsed.body.childNodes);
  return html;
}
