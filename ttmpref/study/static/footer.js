// What stands below every screen of a session: the link to come back by, and the way out.

import { copyable, h } from "./dom.js";

export function footer(visit) {
  const { t } = visit;
  return h("footer", {},
    h("details", {}, h("summary", {}, t("yourLink")),
      h("p", { class: "soft" }, t("linkText")), copyable(location.href, t("copy"), t("copied"))),
    withdrawal(visit));
}

/** A button, and the question behind it. */
function withdrawal({ t, withdraw }) {
  const dialog = h("dialog", { "aria-labelledby": "withdraw-title" },
    h("h2", { id: "withdraw-title" }, t("withdraw")),
    h("p", {}, t("withdrawText")),
    h("p", { class: "actions" },
      h("button", { class: "danger", onclick: () => { dialog.close(); withdraw(); } },
        t("withdrawYes")),
      h("button", { onclick: () => dialog.close() }, t("withdrawNo"))));
  return h("div", {},
    h("button", { class: "plain", onclick: () => dialog.showModal() }, t("withdraw")), dialog);
}
