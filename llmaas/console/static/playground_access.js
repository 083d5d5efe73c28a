// How the playground may call: a key of the project made for this page. It is kept in memory only, and revoked on leaving.

export class Access {
  #project;
  #csrf;
  #made = null;

  constructor(project, csrf) {
    this.#project = encodeURIComponent(project);
    this.#csrf = csrf;
    window.addEventListener("pagehide", () => this.#revoke());
  }

  // The key, made at the first call. Throws an Error with what the service said.
  async key() {
    this.#made ??= this.#make();
    try {
      return (await this.#made).key;
    } catch (error) {
      this.#made = null;
      throw error;
    }
  }

  // The key stopped working: the next call makes another one.
  forget() {
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
    });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error.message);
    return body;
  }

  #revoke() {
    const made = this.#made;
    this.#made = null;
    made?.then(({ id }) =>
      fetch(`/api/v1/projects/${this.#project}/keys/${id}`, {
        method: "DELETE",
        headers: { "x-csrf-token": this.#csrf },
        keepalive: true,
      }),
    ).catch(() => {}); // it expires by itself
  }
}
