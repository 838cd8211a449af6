// Runs once for each desk (gr.HTML gives `element`, `props`, `watch`).
// The value is {run, clips: [{id, name, source, lufs, html}]}. Clips are loaded as they come and join
// the one transport that plays them all; a new run begins an empty desk. A script of the page fills
// a desk by an event "desk" with {place, value}. The transport is the listening study's, served
// beside this page.
const find = (name) => element.querySelector(name);
const bar = find(".transport");
const help = find("[data-desk-help]");
const entries = find(".entries");
const play = find("[data-desk-play]");
const seek = find("[data-desk-seek]");
const repeat = find("[data-desk-loop]");
const module = import(new URL("listen/static/transport.js", document.baseURI).href);
const shown = new Map(); // id -> html of the card on the page
const levels = new Map(); // id -> loudness in LUFS of a clip on the transport
let context = null;
let transport = null;
let run = null;
let line = Promise.resolve(); // clips join one after the other, the first one first

const clock = (seconds) => {
  const whole = Math.floor(seconds + 1e-6);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};
const switches = () => [...entries.querySelectorAll("input[type=radio]")];

function clear() {
  transport?.pause();
  transport = null;
  entries.replaceChildren();
  shown.clear();
  levels.clear();
  bar.hidden = help.hidden = true;
}

/** Cards in the order of the value; what has not changed is left alone. */
function lay(clips) {
  for (const { id, name, html } of clips) {
    let card = entries.querySelector(`[data-id="${id}"]`);
    if (!card) {
      card = document.createElement("article");
      card.className = "entry";
      card.dataset.id = id;
    }
    if (shown.get(id) !== html) card.innerHTML = html;
    shown.set(id, html);
    card.setAttribute("aria-label", name);
    entries.append(card);
  }
  find("[data-desk-last]").textContent = clips.length;
  mark();
}

async function load({ id, source, lufs }, of) {
  context ??= new AudioContext();
  const { Transport } = await module;
  const answer = await fetch(source);
  if (!answer.ok) throw new Error(`${answer.status}`);
  const buffer = await context.decodeAudioData(await answer.arrayBuffer());
  if (of !== run) return; // another run began meanwhile
  transport ??= new Transport(context, {}, paint);
  transport.loop = repeat.checked;
  transport.add(id, buffer);
  levels.set(id, lufs);
  const quietest = Math.min(...[...levels.values()].filter((one) => one !== null));
  for (const [side, loudness] of levels) {
    transport.setLevel(side, loudness === null ? 1 : 10 ** ((quietest - loudness) / 20));
  }
  bar.hidden = help.hidden = false;
  seek.max = transport.duration;
  find("[data-desk-total]").textContent = clock(transport.duration);
  mark();
  paint();
}

/** Which switches can be used, and which one is on. */
function mark() {
  for (const [place, radio] of switches().entries()) {
    radio.name = `heard-${element.closest("[id]").id}`; // one of each desk
    radio.disabled = !levels.has(radio.value);
    radio.checked = transport?.side === radio.value;
    radio.closest(".entry").classList.toggle("heard", radio.checked);
    radio.closest(".entry").querySelector("kbd").textContent = place + 1;
  }
}

function paint() {
  const playing = Boolean(transport?.playing);
  const position = transport?.position ?? 0;
  bar.classList.toggle("playing", playing);
  play.setAttribute("aria-label", playing ? "Pause" : "Play");
  seek.value = position;
  seek.setAttribute("aria-valuetext", `${clock(position)} of ${clock(Number(seek.max))}`);
  find("[data-desk-now]").textContent = clock(position);
  element.style.setProperty("--at", position / (Number(seek.max) || 1));
  if (playing) requestAnimationFrame(paint);
}

function start() {
  document.querySelectorAll("audio").forEach((other) => other.pause());
  context.resume();
  transport.play();
  paint();
}

function choose(id) {
  transport.select(id);
  mark();
  if (!transport.playing) start();
}

function take(value) {
  if (value.run !== run) clear();
  run = value.run;
  const clips = value.clips || [];
  const fresh = clips.filter(({ id, source }) => source && !shown.has(id));
  lay(clips);
  element.classList.toggle("has-clips", Boolean(run));
  for (const clip of fresh) {
    const of = run;
    line = line.then(() => load(clip, of)).catch(() => {
      entries.querySelector(`[data-id="${clip.id}"]`)?.classList.add("gone");
    });
  }
}

play.addEventListener("click", () => {
  if (transport.playing) transport.pause();
  else start();
  paint();
});
seek.addEventListener("input", () => { transport.seek(Number(seek.value)); paint(); });
repeat.addEventListener("change", () => transport?.setLoop(repeat.checked));
entries.addEventListener("change", ({ target }) => {
  if (target.matches("input[type=radio]")) choose(target.value);
});
element.addEventListener("keydown", (event) => {
  const radio = switches()[Number(event.key) - 1];
  if (!radio || radio.disabled || event.ctrlKey || event.metaKey || event.altKey) return;
  radio.focus();
  choose(radio.value);
});
document.addEventListener("play", () => { transport?.pause(); paint(); }, true);
watch("value", () => take(props.value || {}));
document.addEventListener("desk", ({ detail }) => {
  if (element.closest(detail.place)) take(detail.value);
});
take(props.value || {});
