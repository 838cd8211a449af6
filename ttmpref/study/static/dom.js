// Elements without a library. Text from people and from the server only ever becomes text nodes,
// so nothing in it can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("button", {class: "main", onclick: act}, "Play")`. Null children are left out. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for drawings. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** Show a screen, and take keyboard and screen reader to its heading. */
export function show(...children) {
  const screen = document.getElementById("screen");
  screen.removeAttribute("aria-busy");
  screen.replaceChildren(...children.filter((child) => child != null));
  const heading = screen.querySelector("h1");
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

/** A kind of notice that is only for those who hear the screen: everybody else sees it happen. */
export const ALOUD = "aloud";

/** Say something over the screen and aloud; an empty text takes it back. */
export function say(text, kind = "") {
  const notice = document.getElementById("notice");
  notice.className = kind;
  notice.textContent = text;
}

/** A group of radio buttons that look like large keys. `choices` is a list of [value, words]. */
export function radios(name, legend, choices, onchange) {
  return h("fieldset", { class: "choices" },
    h("legend", {}, legend),
    h("div", {}, choices.map(([value, words]) =>
      h("label", {}, h("input", { type: "radio", name, value, required: true, onchange }),
        h("span", {}, words)))));
}

/** A list to choose one from, or nothing. */
export function select(name, label, choices) {
  return h("label", { class: "field" }, h("span", {}, label),
    h("select", { name }, h("option", { value: "" }, "–"),
      choices.map(([value, words]) => h("option", { value }, words))));
}

/** A text that can be taken elsewhere, with a button for it where the browser allows one. */
export function copyable(text, label, copied) {
  const field = h("input", { class: "code", readonly: true, value: text, "aria-label": label,
    onfocus: (event) => event.target.select() });
  if (!navigator.clipboard) return h("p", { class: "copy" }, field); // plain http elsewhere
  const copy = () => navigator.clipboard.writeText(text)
    .then(() => say(copied), () => field.focus());
  return h("p", { class: "copy" }, field, h("button", { type: "button", onclick: copy }, label));
}
