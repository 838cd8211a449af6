// Runs once for the list of clips (gr.HTML gives `element`, `props`, `watch`, `trigger`).
// The value is the current run's cards, a list of {id, html}. Cards not yet on the page go above
// those of earlier runs, the rest is left alone, so a playing clip goes on and earlier results
// stay until removed. The newest cards are kept for the browser tab across a reload.
const MOST_CARDS = 24;
const MOST_KEPT = 12;
const KEY = "ttmpref-clips";
const list = element.querySelector(".clips");
const sources = new Map(); // id -> html as it came

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
  try {
    sessionStorage.setItem(KEY, JSON.stringify(kept.map((id) => ({ id, html: sources.get(id) }))));
  } catch {
    sessionStorage.removeItem(KEY); // full or forbidden: the page works without it
  }
}

function restore() {
  try {
    JSON.parse(sessionStorage.getItem(KEY) || "[]").forEach((card) => insert(card, null));
  } catch {
    sessionStorage.removeItem(KEY);
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
  const button = event.target.closest("[data-use-seed], [data-use-all]");
  if (!button) return;
  const settings = button.closest("article.clip").dataset.settings;
  trigger(button.hasAttribute("data-use-seed") ? "click" : "select", { settings });
});
restore();
watch("value", addNew);
addNew();
