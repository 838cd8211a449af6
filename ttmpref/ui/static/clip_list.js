// Runs once for the list of clips (gr.HTML gives `element`, `props`, `watch`, `trigger`).
// The value is a list of {id, html}; cards not yet on the page are put on top, the rest is left
// alone, so playing clips go on and results of earlier runs stay until removed.
const MOST_CARDS = 24;
const list = element.querySelector(".clips");

function refresh() {
  element.classList.toggle("has-clips", list.childElementCount > 0);
}

function addNew() {
  for (const { id, html } of props.value || []) {
    if (list.querySelector(`[data-id="${CSS.escape(id)}"]`)) continue;
    const holder = document.createElement("template");
    holder.innerHTML = html;
    list.prepend(holder.content);
  }
  while (list.childElementCount > MOST_CARDS) list.lastElementChild.remove();
  refresh();
}

list.addEventListener("clipschange", refresh);
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-use-seed], [data-use-all]");
  if (!button) return;
  const settings = button.closest("article.clip").dataset.settings;
  trigger(button.hasAttribute("data-use-seed") ? "click" : "select", { settings });
});
watch("value", addNew);
addNew();
