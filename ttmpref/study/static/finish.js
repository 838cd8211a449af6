// How a session ends: with thanks and a code, with what was compared where the study tells it, or
// with the reason why it cannot go on.

import { Refusal } from "./api.js";
import { copyable, h, say, show } from "./dom.js";
import { footer } from "./footer.js";

export const CLOSED = ["closed", "archived"];

// Refusals that end a visit: code -> [heading, text, whether trying again later makes sense].
const ENDS = {
  paused: ["paused", "pausedText", true],
  full: ["full", "fullText", true],
  closed: ["ended", "endedText", false],
  withdrawn: ["withdrawn", "withdrawnText", false],
  expired: ["expired", "expiredText", false],
  unauthorised: ["expired", "expiredText", false],
  not_found: ["unknown", "unknownText", false],
  twice: ["twice", "twiceText", false],
};

export function thank(visit, code) {
  const { t } = visit;
  say("");
  show(
    h("h1", {}, t("done")),
    h("p", { class: "lead" }, t("doneText")),
    code ? codePanel(t, code) : null,
    revelation(visit),
    footer(visit),
  );
}

function codePanel(t, code) {
  return h("section", { class: "panel" }, h("h2", {}, t("code")),
    copyable(code, t("copy"), t("copied")), h("p", { class: "soft" }, t("codeText")));
}

/** A way to learn what was compared, where and when the study allows it. */
function revelation(visit) {
  const { t, study } = visit;
  if (study.reveal === "close") {
    return h("section", { class: "panel" }, h("p", {}, t("revealLater")),
      copyable(location.href, t("copy"), t("copied")));
  }
  if (study.reveal === "never") return null;
  const place = h("section", { class: "panel" });
  place.append(h("button", { class: "main", onclick: () => reveal(visit, place) }, t("reveal")));
  return place;
}

async function reveal(visit, place) {
  const rows = await visit.ask(() => visit.api.get("session/reveal"));
  place.replaceChildren(...compared(visit, rows));
  place.querySelector("h2").focus();
}

function compared({ t }, rows) {
  return [h("h2", { tabindex: -1 }, t("revealTitle")), h("ol", { class: "compared" },
    rows.map((row) => h("li", {},
      h("blockquote", {}, row.prompt),
      h("p", {}, t("wasSides", { a: row.system_a, b: row.system_b })),
      h("p", { class: "soft" }, t("youChose", { what: t(row.choice) })))))];
}

/** After the study has closed: what was compared, where the study tells it. */
export async function afterwards(visit) {
  const { t, api } = visit;
  const rows = await visit.ask(() => api.get("session/reveal")).catch((error) => {
    if (error instanceof Refusal) return null;
    throw error;
  });
  show(
    h("h1", {}, t("ended")),
    h("p", { class: "lead" }, t("endedText")),
    rows ? h("section", { class: "panel" }, ...compared(visit, rows)) : null,
    footer(visit),
  );
}

export function sendHome({ t }, code) {
  show(h("h1", {}, t("screenedOut")), h("p", { class: "lead" }, t("screenedOutText")),
    code ? codePanel(t, code) : null);
}

/** Say why it cannot go on; `visit` may know no more than the language. */
export function stop(visit, error) {
  const { t } = visit;
  const [heading, text, later] = ENDS[error.code] ?? ["refused", null, true];
  say("");
  show(
    h("h1", {}, t(heading)),
    h("p", { class: "lead" }, text ? t(text) : error.message),
    later ? h("p", { class: "actions" },
      h("button", { class: "main", onclick: () => location.reload() }, t("tryAgain"))) : null,
  );
}
