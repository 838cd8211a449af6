// One comparison: load both clips, let people listen, take the answer when enough was heard.

import { audio, wake } from "./audio.js";
import { insist, Refusal } from "./api.js";
import { ALOUD, h, radios, say, show, svg } from "./dom.js";
import { footer } from "./footer.js";
import { EventLog, Heard } from "./heard.js";
import { deliver, keep } from "./outbox.js";
import { draw } from "./sounds.js";
import { recall, remember } from "./storage.js";
import { Transport } from "./transport.js";
import { local } from "./words.js";

const FLUSH_MS = 2000;
const PAINT_MS = 100;
const MAX_EVENTS = 500; // the server takes no more at once
const GRADES = [-3, -2, -1, 0, 1, 2, 3];
const RING = 2 * Math.PI * 26; // circumference in the drawing's units
const KEYS = { 1: "A", a: "A", 2: "B", b: "B" };
const SHORTCUTS = "shortcuts";
// Answers that come too late for their trial; the session itself goes on.
const TOO_LATE = ["answered", "over", "key_reused", "lease_expired", "not_found", "forbidden"];

/**
 * Show a trial until it is answered.
 * @returns the server's next step, or null where it has to be asked for.
 */
export async function runTrial(visit, trial) {
  const view = new View(visit, trial);
  const buffers = await loadClips(visit, trial, view);
  if (buffers === null) return null; // the trial went to somebody else meanwhile
  const listening = new Listening(visit, trial, buffers, view);
  try {
    return await listening.answered();
  } finally {
    listening.close();
  }
}

/** Both clips, decoded; asked for in random order, so that order tells nothing. */
async function loadClips({ api, t }, trial, view) {
  const sides = draw(2) ? ["A", "B"] : ["B", "A"];
  const shares = { A: 0, B: 0 };
  const load = async (side) => {
    const bytes = await insist(() => api.clip(trial.stimuli[side], (received, total) => {
      shares[side] = received / total;
      view.progress((shares.A + shares.B) / 2);
    }), () => say(`${t("clipsFailed")} ${t("waiting")}`, "bad"));
    return audio().decodeAudioData(bytes);
  };
  try {
    const decoded = await Promise.all(sides.map(load));
    say(t("ready"), ALOUD);
    return Object.fromEntries(sides.map((side, i) => [side, decoded[i]]));
  } catch (error) {
    if (error instanceof Refusal && TOO_LATE.includes(error.code)) return null;
    if (error instanceof Refusal) throw error;
    const log = new EventLog();
    const report = { client: log.client, events: [log.add("load_error", "none", 0)] };
    await insist(() => api.post(`trials/${trial.id}/events`, report), () => {});
    throw new Error(t("clipsBroken"), { cause: error });
  }
}

/** Everything between "both clips are here" and "the answer is stored". */
class Listening {
  #visit;
  #trial;
  #view;
  #transport;
  #heard;
  #log = new EventLog();
  #begunAt = performance.now();
  #lastPosition = 0;
  #announced = { A: false, B: false };
  #flushing = null; // lets go of the events on their way
  #voting = false;
  #leaving = new AbortController();
  #timers;
  #resolve;
  #reject;

  constructor(visit, trial, buffers, view) {
    this.#visit = visit;
    this.#trial = trial;
    this.#view = view;
    this.#transport = new Transport(audio(), buffers, () => this.#record("ended"));
    this.#heard = new Heard(1000 * this.#transport.duration, trial.heard);
    this.#record("loaded", "A");
    this.#record("loaded", "B");
    this.#flush();
    view.enable(this, this.#transport.duration);
    this.#timers = [
      setInterval(() => this.#paint(), PAINT_MS), setInterval(() => this.#flush(), FLUSH_MS),
    ];
    const options = { signal: this.#leaving.signal };
    document.addEventListener("visibilitychange", () => this.#seen(), options);
    addEventListener("pagehide", () => this.#leave(), options);
    audio().addEventListener("statechange", () => this.#interrupted(), options);
    audio().addEventListener("error", () => say(visit.t("noSound"), "bad"), options);
    this.#paint();
  }

  answered() {
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  close() {
    this.#leaving.abort();
    this.#timers.forEach(clearInterval);
    this.#transport.pause();
  }

  // What people do ------------------------------------------------------------------------------

  async toggle() {
    if (this.#transport.playing) this.pause();
    else await this.#play();
  }

  pause() {
    if (!this.#transport.playing) return;
    this.#transport.pause();
    this.#record("pause");
    this.#paint();
  }

  /** Hear this clip: from now on where one plays, from here where none does. */
  async choose(side) {
    const changed = side !== this.#transport.side;
    this.#transport.select(side);
    if (!this.#transport.playing) await this.#play();
    else if (changed) this.#record("switch");
    this.#paint();
  }

  seek(seconds) {
    this.#transport.seek(seconds);
    this.#lastPosition = this.#transport.position;
    this.#record("seek");
    this.#paint();
  }

  setLoop(loop) {
    this.#transport.setLoop(loop);
    this.#paint();
  }

  get looping() {
    return this.#transport.loop;
  }

  async submit(answer) {
    this.pause();
    this.#voting = true; // which takes all events along; a batch behind it would come too late
    this.#flushing?.abort();
    this.#view.setBusy(true);
    const { t, api } = this.#visit;
    say(t("saving"), ALOUD);
    const body = {
      ...answer,
      rt_ms: Math.round(performance.now() - this.#begunAt),
      client_ts: new Date().toISOString(),
      client: this.#log.client,
      events: this.#log.unsent.slice(0, MAX_EVENTS),
    };
    const vote = keep(this.#trial.id, api.token, body);
    try {
      const stored = await deliver(api, vote, () => say(t("notSaved"), "bad"));
      say(t("saved"), ALOUD);
      this.#resolve(stored.next);
    } catch (error) {
      this.#refused(error);
    }
  }

  #refused(error) {
    const { t } = this.#visit;
    if (error.code === "not_heard") {
      say(t("notHeard"), "bad");
      this.#voting = false;
      this.#view.setBusy(false);
    } else if (TOO_LATE.includes(error.code)) {
      say(t("tooLate"), "bad");
      this.#resolve(null);
    } else {
      this.#reject(error);
    }
  }

  // What happens --------------------------------------------------------------------------------

  async #play() {
    await wake(this.#visit.t);
    if (this.#transport.playing || this.#leaving.signal.aborted) return;
    this.#transport.play();
    this.#lastPosition = this.#transport.position;
    this.#record("play");
    this.#paint();
  }

  #record(kind, side = this.#transport.side) {
    this.#heard.take(this.#log.add(kind, side, 1000 * this.#transport.position));
  }

  /** A page out of sight does not play: what nobody attends to is not heard. */
  #seen() {
    if (document.hidden) this.pause();
    this.#record(document.hidden ? "hidden" : "visible");
  }

  /** The system took the sound away, for a call or another device. */
  #interrupted() {
    if (audio().state !== "running") this.pause();
  }

  #leave() {
    this.pause();
    const events = this.#log.unsent.slice(0, MAX_EVENTS);
    if (this.#visit.over || this.#voting || events.length === 0) return;
    this.#visit.api.beacon(`trials/${this.#trial.id}/events`, { client: this.#log.client, events });
  }

  async #flush() {
    const events = this.#log.unsent.slice(0, MAX_EVENTS);
    if (this.#flushing || this.#voting || events.length === 0) return;
    this.#flushing = new AbortController();
    const { signal } = this.#flushing;
    try {
      const body = { client: this.#log.client, events };
      await this.#visit.api.post(`trials/${this.#trial.id}/events`, body, { signal });
      this.#log.sent(events);
    } catch {
      // They stay in the log: the next flush, or the vote itself, takes them along.
    } finally {
      this.#flushing = null;
    }
  }

  #paint() {
    const { playing, position, side } = this.#transport;
    if (playing && position < this.#lastPosition) this.#record("loop");
    this.#lastPosition = position;
    const cover = this.#heard.cover(performance.now());
    this.#view.paint({ playing, position, side, cover });
    this.#announce(cover);
  }

  /** Say once for each clip that it was heard enough; a screen reader need not hear the countdown. */
  #announce(cover) {
    const { t, study } = this.#visit;
    for (const side of ["A", "B"]) {
      if (this.#announced[side] || cover[side] < study.min_coverage) continue;
      this.#announced[side] = true;
      const both = this.#announced.A && this.#announced.B;
      say(both ? t("canAnswer") : t("heardSide", { side }), ALOUD);
    }
  }
}

/** What is on the screen; it knows nothing of sound. */
class View {
  constructor(visit, trial) {
    this.visit = visit;
    this.duration = visit.study.clip_ms / 1000;
    this.listening = null;
    this.#build(trial);
    show(...this.parts, footer(visit));
    this.player.addEventListener("keydown", (event) => this.#key(event));
  }

  #build(trial) {
    const { t, study, locale } = this.visit;
    const step = t("step", { n: trial.answered + 1, m: trial.total });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": t("clipsLoading") });
    this.sides = { A: this.#side("A"), B: this.#side("B") };
    this.toggle = h("button", { class: "toggle", disabled: true, "aria-label": t("play"),
      onclick: () => this.listening.toggle() }, icon("play"));
    this.seek = h("input", { type: "range", min: 0, max: this.duration, step: 0.1, value: 0,
      disabled: true, "aria-label": t("position"),
      onchange: (event) => this.listening.seek(Number(event.target.value)),
      onpointerdown: () => { this.dragging = true; },
      onpointerup: () => { this.dragging = false; } });
    this.clock = h("span", { class: "clock", "aria-hidden": "true" });
    this.loop = h("button", { class: "loop", disabled: true, "aria-pressed": "true",
      "aria-label": t("loop"), title: t("loop"), onclick: () => this.#toggleLoop() }, icon("loop"));
    this.shortcuts = h("input", { type: "checkbox",
      onchange: (event) => remember(SHORTCUTS, event.target.checked ? "on" : "off") });
    this.shortcuts.checked = recall(SHORTCUTS) !== "off";
    this.player = h("section", { class: "panel player", role: "group", tabindex: -1,
      "aria-label": t("player") },
      h("div", { class: "sides" }, this.sides.A.button, this.sides.B.button),
      h("div", { class: "transport" }, this.toggle, this.seek, this.clock, this.loop),
      h("div", { class: "loading" }, h("p", { class: "soft" }, t("clipsLoading")), this.bar),
      h("label", { class: "tick soft keys" }, this.shortcuts,
        h("span", {}, `${t("keysOn")} (${t("keysHelp")})`)));
    this.more = h("p", { class: "more" });
    this.answers = this.#answers();
    this.parts = [
      h("header", { class: "step" },
        h("span", {}, step), trial.practice ? h("strong", {}, t("practice")) : null,
        h("progress", { max: trial.total, value: trial.answered, "aria-label": step })),
      h("h1", {}, local(study.question, locale)),
      trial.prompt === null ? null : h("figure", { class: "prompt" },
        h("figcaption", {}, t("promptLabel")), h("blockquote", {}, trial.prompt)),
      this.player,
      this.answers,
    ];
  }

  #side(side) {
    const { t, study } = this.visit;
    const ring = svg("circle", { cx: 30, cy: 30, r: 26, "stroke-dasharray": RING,
      "stroke-dashoffset": RING, transform: "rotate(-90 30 30)" });
    const button = h("button", { class: "side", disabled: true, "aria-pressed": "false",
      "aria-label": t(`clip${side}`), onclick: () => this.listening.choose(side) },
      svg("svg", { viewBox: "0 0 60 60", "aria-hidden": "true" },
        svg("circle", { class: "track", cx: 30, cy: 30, r: 26 }), ring,
        svg("text", { x: 30, y: 31, "text-anchor": "middle", "dominant-baseline": "central" },
          side)));
    const paint = (cover) => {
      const share = Math.min(1, cover / Math.max(study.min_coverage, 1e-9));
      ring.setAttribute("stroke-dashoffset", RING * (1 - share));
      button.classList.toggle("heard", share >= 1);
    };
    return { button, paint };
  }

  #answers() {
    const { t, study } = this.visit;
    const { type, answers, confidence } = study.method;
    const choices = type === "cmos"
      ? GRADES.map((grade) => [grade, gradeWords(t, grade)])
      : answers.map((answer) => [answer, t(answer)]);
    const name = type === "cmos" ? "grade" : "choice";
    const levels = Array.from({ length: confidence }, (_, i) => [i + 1,
      i === 0 ? t("leastSure") : i + 1 === confidence ? t("mostSure") : String(i + 1)]);
    // No group for a screen reader: it is there to close all fields at once.
    this.fields = h("fieldset", { class: "answers", role: "none", disabled: true },
      radios(name, t("answer"), choices),
      confidence > 0 ? radios("confidence", t("confidence"), levels) : null,
      h("details", {}, h("summary", {}, t("comment")),
        h("label", { class: "field" }, h("span", {}, t("commentHelp")),
          h("textarea", { name: "comment", rows: 3, maxlength: 2000 }))),
      h("p", { class: "actions" }, h("button", { class: "main" }, t("send"))));
    return h("form", { class: "panel", onsubmit: (event) => this.#submit(event) },
      this.more, this.fields);
  }

  #submit(event) {
    event.preventDefault();
    const filled = new FormData(event.target);
    const number = (name) => (filled.get(name) === null ? {} : { [name]: Number(filled.get(name)) });
    this.listening.submit({
      ...(filled.get("choice") === null ? {} : { choice: filled.get("choice") }),
      ...number("grade"), ...number("confidence"), comment: filled.get("comment"),
    });
  }

  progress(share) {
    this.bar.value = share;
  }

  enable(listening, duration) {
    this.listening = listening;
    this.duration = duration;
    this.player.querySelector(".loading").hidden = true;
    for (const control of [this.toggle, this.seek, this.loop, this.sides.A.button,
      this.sides.B.button]) control.disabled = false;
    this.player.focus({ preventScroll: true }); // its keys work at once
  }

  setBusy(busy) {
    this.busy = busy;
    this.fields.disabled = busy;
  }

  paint({ playing, position, side, cover }) {
    const { t, study } = this.visit;
    this.toggle.replaceChildren(icon(playing ? "pause" : "play"));
    this.toggle.setAttribute("aria-label", t(playing ? "pause" : "play"));
    if (!this.dragging) this.seek.value = position;
    this.seek.setAttribute("aria-valuetext",
      t("positionText", { now: position.toFixed(0), all: this.duration.toFixed(0) }));
    this.clock.textContent = `${position.toFixed(1)} / ${this.duration.toFixed(1)} s`;
    for (const [name, view] of Object.entries(this.sides)) {
      view.button.setAttribute("aria-pressed", String(name === side));
      view.button.classList.toggle("playing", playing && name === side);
      view.paint(cover[name]);
    }
    const missing = ["A", "B"].filter((name) => cover[name] < study.min_coverage)
      .map((name) => t("moreOf", { side: name,
        s: Math.ceil((study.min_coverage - cover[name]) * this.duration) }));
    this.more.textContent = this.busy ? t("saving") : missing.length === 0 ? t("canAnswer")
      : t("listenMore", { what: missing.join(` ${t("and")} `) });
    this.more.classList.toggle("met", missing.length === 0);
    this.fields.disabled = Boolean(this.busy) || missing.length > 0;
  }

  #toggleLoop() {
    const loop = !this.listening.looping;
    this.listening.setLoop(loop);
    this.loop.setAttribute("aria-pressed", String(loop));
  }

  /** Single keys act inside the player alone, and not at all where they are switched off. */
  #key(event) {
    if (!this.listening || !this.shortcuts.checked) return;
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    const key = event.key.toLowerCase();
    const onControl = event.target.matches("button, input[type=checkbox]");
    if (KEYS[key]) this.listening.choose(KEYS[key]);
    else if (key === "l") this.#toggleLoop();
    else if (key === " " && !onControl) this.listening.toggle(); // a button takes its own space
    else return;
    event.preventDefault();
  }
}

function gradeWords(t, grade) {
  if (grade === 0) return t("grade0");
  return t("gradeOf", { side: grade < 0 ? "A" : "B", grade: t(`grade${Math.abs(grade)}`) });
}

const ICONS = {
  play: "M8 5v14l11-7z",
  pause: "M6 5h4v14H6zM14 5h4v14h-4z",
  loop: "M12 5V2L7 6.5 12 11V8a5 5 0 1 1-5 5H4a8 8 0 1 0 8-8z",
};

function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" },
    svg("path", { d: ICONS[name] }));
}
