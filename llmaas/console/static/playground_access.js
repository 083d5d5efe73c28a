// How the playground may call: a key of the project made for this tab. It is kept with the tab, so that coming back makes no
// other one; signing out revokes it (frame.js), and it ends by itself within a day.

export const KEPT_KEY = "llmaas-key ";

export class Access {
  #project;
  #csrf;
  #place;
  #made = null;

  // `reader`: whose key it is; another reader of this browser has another one.
  constructor(project, reader, csrf) {
    this.#project = encodeURIComponent(project);
    this.#csrf = csrf;
    this.#place = `${KEPT_KEY}${reader} ${this.#project}`;
  }

  // The key, made at the first call. Throws an Error with what the service said; `code`: `signed_out` for who has to sign in.
  async key() {
    const kept = sessionStorage.getItem(this.#place);
    this.#made ??= kept ? Promise.resolve(JSON.parse(kept)) : this.#make();
    try {
      return (await this.#made).key;
    } catch (error) {
      this.#made = null;
      throw error;
    }
  }

  // The key stopped working: the next call makes another one.
  forget() {
    sessionStorage.removeItem(this.#place);
    this.#made = null;
  }

  // The ledger's row of an answer, or null. It is there when the answer is whole; soon after when it was cut off.
  async row(answerId, tries) {
    for (let n = 0; n < tries; n += 1) {
      if (n) await new Promise((resolve) => setTimeout(resolve, 250 * n));
      const query = new URLSearchParams({ id: answerId, limit: "1" });
      const answer = await fetch(`/api/v1/projects/${this.#project}/usage/rows?${query}`, { cache: "no-store" });
      const row = answer.ok ? (await answer.json()).data[0] : null;
      if (row) return row;
    }
    return null;
  }

  async #make() {
    const answer = await fetch(`/api/v1/projects/${this.#project}/keys`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-csrf-token": this.#csrf },
      body: JSON.stringify({ name: "playground", expires_days: 1 }),
    }).catch(() => {
      throw Object.assign(new Error(), { code: "network" });
    });
    if (answer.status === 401) throw Object.assign(new Error(), { code: "signed_out" });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error.message);
    sessionStorage.setItem(this.#place, JSON.stringify({ id: body.id, key: body.key, project: this.#project }));
    return body;
  }
}
