// The log of what the player did, and what it amounts to. The server adds up the same events by the
// same rule (`ttmpref/study/listening.py`) and believes nothing else, so that an answer which this
// page accepts is one that the server accepts too.

import { uuid } from "./storage.js";

export class Heard {
  #durationMs;
  #spans;
  #playing = false;
  #visible = true;
  #side = "none";
  #mediaMs = 0;
  #monoMs = null;

  /** `spans` are those that the server knows from before, {A: [[start, stop], ...], B: ...} in ms. */
  constructor(durationMs, spans = { A: [], B: [] }) {
    this.#durationMs = durationMs;
    this.#spans = { A: [...spans.A], B: [...spans.B] };
  }

  /** Credit the time since the last event, then do what this one says. */
  take({ kind, side, media_ms, mono_ms }) {
    this.#credit(this.#spans, mono_ms);
    if (this.#monoMs !== null) this.#mediaMs = this.#mediaAt(mono_ms);
    this.#monoMs = mono_ms;
    if (["play", "switch", "seek", "loop", "visible"].includes(kind)) this.#mediaMs = media_ms;
    if (["play", "switch"].includes(kind)) this.#side = side;
    if (["play", "pause", "ended"].includes(kind)) this.#playing = kind === "play";
    if (["hidden", "visible"].includes(kind)) this.#visible = kind === "visible";
  }

  /** Shares of A and B, 0 to 1, that were heard by the time `monoMs`. */
  cover(monoMs) {
    const spans = { A: [...this.#spans.A], B: [...this.#spans.B] };
    this.#credit(spans, monoMs);
    const share = (side) => Math.min(1, union(spans[side]) / this.#durationMs);
    return { A: share("A"), B: share("B") };
  }

  #counts() {
    return this.#visible && this.#playing && this.#side !== "none";
  }

  #mediaAt(monoMs) {
    const passed = this.#counts() ? Math.max(0, monoMs - this.#monoMs) : 0;
    return (this.#mediaMs + passed) % this.#durationMs;
  }

  /** What was played since the last event; clips loop. */
  #credit(spans, monoMs) {
    if (!this.#counts()) return;
    const stop = this.#mediaMs + Math.max(0, monoMs - this.#monoMs);
    if (stop - this.#mediaMs >= this.#durationMs) {
      spans[this.#side].push([0, this.#durationMs]);
    } else {
      spans[this.#side].push([this.#mediaMs, Math.min(stop, this.#durationMs)]);
      spans[this.#side].push([0, Math.max(0, stop - this.#durationMs)]);
    }
  }
}

/** Total length of possibly overlapping spans. */
function union(spans) {
  let total = 0;
  let reached = 0;
  for (const [start, stop] of [...spans].sort((a, b) => a[0] - b[0])) {
    total += Math.max(0, stop - Math.max(start, reached));
    reached = Math.max(reached, stop);
  }
  return total;
}

/** Numbered events of one trial in one page load, until the server has them. */
export class EventLog {
  client = uuid();
  #seq = 0;
  #unsent = [];

  add(kind, side, mediaMs) {
    const event = { seq: this.#seq, kind, side, media_ms: mediaMs, mono_ms: performance.now() };
    this.#seq += 1;
    this.#unsent.push(event);
    return event;
  }

  /** Events that no answer of the server covers yet. */
  get unsent() {
    return [...this.#unsent];
  }

  /** The server has these. */
  sent(events) {
    const known = new Set(events.map((event) => event.seq));
    this.#unsent = this.#unsent.filter((event) => !known.has(event.seq));
  }
}
