// Runs once for the list of clips (gr.HTML gives `element`, `props`, `watch`, `trigger`).
// The value is the current run's cards, a list of {id, html}. Cards not yet on the page go above
// those of earlier runs, the rest is left alone, so a playing clip goes on and earlier results
// stay until removed. The newest cards are kept for the browser tab across a reload.
const MOST_CARDS = 24;
const MOST_KEPT = 12;
const MOST_REMEMBERED = 60;
const KEY = "ttmpref-clips";
const HISTORY_KEY = "ttmpref-history";
const list = element.querySelector(".clips");
const history = element.querySelector(".history");
const sources = new Map(); // id -> html as it came
const remembered = []; // {id, title, text, settings} of the visit's clips, the newest first

function insert({ id, html }, before) {
  if (sources.has(id)) return;
  sources.set(id, html);
  const holder = document.createElement("template");
  holder.innerHTML = html;
  list.insertBefore(holder.content, before);
}

function settle() {
  while (list.childElementCount > MOST_CARDS) list.lastElementChild.remove();
  element.classList.toggle("has-clips", list.childElementCount > 0);
  const kept = [...list.children].slice(0, MOST_KEPT).map((card) => card.dataset.id);
  [...list.children].reverse().forEach(remember);
  showHistory();
  showPair();
  keep(KEY, kept.map((id) => ({ id, html: sources.get(id) })));
}

function restore() {
  try {
    remembered.push(...JSON.parse(sessionStorage.getItem(HISTORY_KEY) || "[]"));
    JSON.parse(sessionStorage.getItem(KEY) || "[]").forEach((card) => insert(card, null));
  } catch {
    [KEY, HISTORY_KEY].forEach((key) => sessionStorage.removeItem(key)); // it cannot be read
  }
}

// History: what was made in this visit, also when its clip is gone ---------------------------------

function remember(card) {
  if (remembered.some(({ id }) => id === card.dataset.id)) return;
  remembered.unshift({
    id: card.dataset.id,
    title: card.querySelector(".clip-title h3").textContent,
    text: card.querySelector(".clip-title p").textContent,
    settings: card.dataset.settings,
  });
  remembered.splice(MOST_REMEMBERED);
}

function showHistory() {
  const button = (settings) => {
    const one = document.createElement("button");
    Object.assign(one, { type: "button", className: "mini", textContent: "Restore settings" });
    one.dataset.restore = settings;
    return one;
  };
  const row = ({ title, text, settings }) => {
    const [line, name, facts] = ["li", "b", "span"].map((tag) => document.createElement(tag));
    name.textContent = title;
    facts.textContent = text;
    line.append(name, facts, button(settings));
    return line;
  };
  history.hidden = remembered.length === 0;
  history.querySelector("ol").replaceChildren(...remembered.map(row));
  keep(HISTORY_KEY, remembered);
}

// Compare two: the cards that are marked stand on the desk above the list --------------------------

function pair(button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  const marked = [...list.querySelectorAll("[data-pair][aria-pressed=true]")];
  if (on && marked.length === 2) marked[1].setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(on));
  showPair();
}

function showPair() {
  const cards = [...list.querySelectorAll("[data-pair][aria-pressed=true]")]
    .map((one) => one.closest("article.clip"));
  const value = cards.length < 2 ? {} : {
    run: cards.map((card) => card.dataset.id).join(),
    clips: cards.map(onDesk),
  };
  document.dispatchEvent(new CustomEvent("desk", { detail: { place: "#pair", value } }));
  if (cards.length === 2) document.querySelector("#pair").scrollIntoView({ block: "nearest" });
}

function onDesk(card) {
  const label = document.createElement("label");
  label.className = "hear";
  const radio = document.createElement("input");
  radio.type = "radio";
  radio.setAttribute("value", card.dataset.id);
  const name = document.createElement("b");
  name.textContent = card.querySelector("h3").textContent;
  const text = document.createElement("p");
  text.className = "soft";
  text.textContent = card.querySelector(".clip-title p").textContent;
  label.append(radio, name, document.createElement("kbd"));
  return {
    id: card.dataset.id,
    name: card.getAttribute("aria-label"),
    source: card.querySelector("audio").getAttribute("src"),
    lufs: card.dataset.lufs === "" ? null : Number(card.dataset.lufs),
    html: label.outerHTML + text.outerHTML,
  };
}

function keep(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch {
    sessionStorage.removeItem(key); // full or forbidden: the page works without it
  }
}

function addNew() {
  const run = props.value || [];
  const ids = new Set(run.map((card) => card.id));
  const earlier = [...list.children].find((card) => !ids.has(card.dataset.id)) || null;
  run.forEach((card) => insert(card, earlier));
  settle();
}

list.addEventListener("clipschange", settle);
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-use-seed], [data-use-all], [data-optimise], [data-restore], [data-pair]");
  if (!button) return;
  if (button.hasAttribute("data-pair")) return pair(button);
  if (button.hasAttribute("data-restore")) {
    return trigger("select", { settings: button.dataset.restore, optimise: false });
  }
  const settings = button.closest("article.clip").dataset.settings;
  const optimise = button.hasAttribute("data-optimise");
  trigger(button.hasAttribute("data-use-seed") ? "click" : "select", { settings, optimise });
});
restore();
watch("value", addNew);
addNew();
