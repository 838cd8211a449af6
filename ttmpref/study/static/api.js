// The study's API: one place for addresses, the session token, and the two kinds of failure.
// `Trouble` passes by itself (no network, server restarting, too many requests): ask again.
// `Refusal` does not: the server understood and said no, with a code to act on.

const BASE = new URL("../api/v1/", location.href);
const LONGEST_WAIT_SECONDS = 15;

export class Trouble extends Error {
  constructor(message, seconds = 0) {
    super(message);
    this.seconds = seconds; // the server asked to wait so long
  }
}

export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Api {
  constructor(token = null) {
    this.token = token;
  }

  get(path) {
    return this.#json("GET", path);
  }

  /**
   * `headers` beside the token's; `keepalive` lets the request outlive the page; `signal` lets go of
   * it, whether or not it has arrived.
   */
  post(path, body = {}, { headers = {}, keepalive = false, signal = null } = {}) {
    const options = { body: JSON.stringify(body), keepalive, signal };
    return this.#json("POST", path, { ...headers, "Content-Type": "application/json" }, options);
  }

  /** Bytes of a clip; `onbytes(received, total)` is told how far it is. */
  async clip(name, onbytes) {
    const response = await this.#fetch("GET", `stimuli/${name}`);
    const total = Number(response.headers.get("Content-Length")) || Infinity;
    const parts = [];
    let received = 0;
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read().catch((error) => {
        throw new Trouble(error.message);
      });
      if (done) break;
      parts.push(value);
      received += value.length;
      onbytes(received, total);
    }
    return new Blob(parts).arrayBuffer();
  }

  /** Send something while the page closes; such a request has no headers, so the token is in it. */
  beacon(path, body) {
    const text = JSON.stringify({ ...body, token: this.token });
    navigator.sendBeacon(new URL(path, BASE), new Blob([text], { type: "application/json" }));
  }

  async #json(...request) {
    const response = await this.#fetch(...request);
    return response.json().catch((error) => { throw new Trouble(error.message); });
  }

  async #fetch(method, path, headers = {}, options = {}) {
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    const request = { method, headers, cache: "no-store", credentials: "omit", ...options };
    const response = await fetch(new URL(path, BASE), request)
      .catch((error) => { throw new Trouble(error.message); });
    if (response.ok) return response;
    const { error = {} } = await response.json().catch(() => ({}));
    if (response.status >= 500 || response.status === 429) {
      throw new Trouble(error.message, Number(response.headers.get("Retry-After")) || 0);
    }
    throw new Refusal(response.status, error.code, error.message);
  }
}

/** Try until it works or is refused; `ontrouble` hears of every failure in between. */
export async function insist(attempt, ontrouble) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Trouble)) throw error;
      ontrouble(error);
      await pause(Math.max(error.seconds, Math.min(LONGEST_WAIT_SECONDS, 2 ** tries)));
    }
  }
}

/** Wait, but not beyond the moment when the network comes back. */
function pause(seconds) {
  return new Promise((resolve) => {
    setTimeout(resolve, 1000 * seconds);
    addEventListener("online", resolve, { once: true });
  });
}
