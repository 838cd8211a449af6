// From the first look to a session: consent, a few questions, and the choice to say no.

import { copyable, h, radios, say, select, show } from "./dom.js";
import { local } from "./words.js";

// How recruiting platforms call the id in the links they send people.
const ID_PARAMETERS = ["PROLIFIC_PID", "survey_code", "workerId", "id"];
const SMALL_SCREEN = 600;
const LARGE_SCREEN = 1100;
const AGE_BANDS = ["18-24", "25-34", "35-44", "45-54", "55-64", "65+"];
const DEVICES = ["headphones", "earphones", "speakers", "phone", "other"];
const HEARING = ["normal", "impaired", "unsure"];
const TRAINING = ["none", "some", "amateur", "professional"];
const BROWSERS = [["Firefox", "Firefox"], ["Edg", "Edge"], ["OPR", "Opera"], ["Chrome", "Chrome"],
  ["Safari", "Safari"]];

/** Consent: what to send with it, or null from somebody who declines. */
export function askConsent(visit) {
  const { study, t, locale } = visit;
  const { consent } = study;
  const given = givenId();
  return new Promise((resolve) => {
    const agree = consent.minimum_age ? t("agreeAge", { n: consent.minimum_age }) : t("agree");
    const submit = (event) => {
      event.preventDefault();
      const id = given ?? new FormData(event.target).get("id");
      resolve({ consent_version: consent.version, accepted: true, external_id: id || null });
    };
    show(
      h("h1", {}, study.title),
      h("p", { class: "lead" }, t("facts", { n: study.trials, m: study.max_minutes }), " ",
        t("factsSound")),
      languages(visit),
      h("form", { class: "panel", onsubmit: submit },
        h("h2", {}, t("consent")),
        local(consent.text, locale).split("\n").map((line) => h("p", {}, line)),
        consent.ethics ? h("p", { class: "soft" }, t("ethics", { text: consent.ethics })) : null,
        consent.contact ? h("p", { class: "soft" }, t("contact", { text: consent.contact })) : null,
        study.needs_id && given === null ? idField(t) : null,
        h("label", { class: "tick" }, h("input", { type: "checkbox", required: true }),
          h("span", {}, agree)),
        h("p", { class: "actions" },
          h("button", { class: "main" }, t("next")),
          h("button", { type: "button", onclick: () => resolve(null) }, t("decline")))),
    );
  });
}

/** The id that the link of a recruiting platform brought, or null. */
function givenId() {
  const parameters = new URLSearchParams(location.search);
  return ID_PARAMETERS.map((name) => parameters.get(name)).find(Boolean) ?? null;
}

function idField(t) {
  return h("label", { class: "field" },
    h("span", {}, t("yourId", { source: t("platform") })),
    h("input", { name: "id", required: true, maxlength: 200, autocomplete: "off" }),
    h("small", {}, t("yourIdHelp")));
}

/** The study's languages, where it has several. */
function languages({ study, locale, t }) {
  const offered = Object.keys(study.question);
  if (offered.length < 2) return null;
  const address = (one) => {
    const url = new URL(location.href);
    url.searchParams.set("lang", one);
    return url.href;
  };
  return h("nav", { class: "languages", "aria-label": t("language") }, offered.map((one) =>
    h("a", { href: address(one), lang: one, "aria-current": one === locale ? "true" : null },
      new Intl.DisplayNames([one], { type: "language" }).of(one))));
}

export function thankAnyway({ study, t }) {
  const code = study.consent.decline_code;
  show(h("h1", {}, t("declined")), h("p", {}, t("declinedText")),
    code ? h("section", { class: "panel" }, h("h2", {}, t("code")),
      copyable(code, t("copy"), t("copied")), h("p", { class: "soft" }, t("codeText"))) : null);
}

/** A few questions about the listener; only the device must be answered. */
export function askAboutListener({ t }) {
  return new Promise((resolve) => {
    const submit = (event) => {
      event.preventDefault();
      const filled = [...new FormData(event.target)].filter(([, value]) => value);
      resolve(Object.fromEntries(filled));
    };
    const worded = (names) => names.map((name) => [name, t(name)]);
    show(
      h("h1", {}, t("aboutYou")),
      h("p", { class: "lead" }, t("aboutYouText")),
      h("form", { class: "panel", onsubmit: submit },
        radios("device", t("device"), worded(DEVICES)),
        h("div", { class: "fields" },
          select("age_band", t("age"), AGE_BANDS.map((band) => [band, band])),
          select("hearing", t("hearing"), worded(HEARING)),
          select("training", t("training"), worded(TRAINING))),
        h("p", { class: "actions" }, h("button", { class: "main" }, t("begin")))),
    );
  });
}

/** Technical facts that decide how a clip sounds; nothing that tells one listener from another. */
export function clientFacts(context) {
  const width = Math.min(screen.width, screen.height);
  const family = BROWSERS.find(([mark]) => navigator.userAgent.includes(mark));
  return {
    audio_sample_rate: context.sampleRate,
    base_latency_ms: 1000 * (context.baseLatency ?? 0),
    user_agent_family: family?.[1] ?? "other",
    viewport: width < SMALL_SCREEN ? "small" : width < LARGE_SCREEN ? "medium" : "large",
  };
}

/** Whether to go on with a session that this browser remembers; shared computers may not want it. */
export function askWhetherToResume({ t }) {
  say("");
  return new Promise((resolve) => {
    show(
      h("h1", {}, t("back")),
      h("p", { class: "lead" }, t("backText")),
      h("p", { class: "actions" },
        h("button", { class: "main", onclick: () => resolve(true) }, t("resume")),
        h("button", { onclick: () => resolve(false) }, t("startNew"))),
    );
  });
}
