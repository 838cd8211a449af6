// The listener's page: from consent to the completion code. One screen follows the other in `main`;
// each is a function that shows itself and returns what people answered.
// Specification of listening studies, sections 2.2, 3.4 and 6.4.

import { Api, insist, Refusal } from "./api.js";
import { audio } from "./audio.js";
import { checkHeadphones, setVolume } from "./checks.js";
import { say } from "./dom.js";
import { afterwards, CLOSED, sendHome, stop, thank } from "./finish.js";
import { askAboutListener, askConsent, askWhetherToResume, clientFacts, thankAnyway }
  from "./joining.js";
import { deliver, discard, kept } from "./outbox.js";
import { forget, recall, remember } from "./storage.js";
import { runTrial } from "./trial.js";
import { bestLocale, SPOKEN, speaker } from "./words.js";

const RESUME = "#resume="; // in the fragment, which browsers send to no server
const slug = decodeURIComponent(location.pathname.split("/").pop());

class Visit {
  api = new Api();
  locale = bestLocale(SPOKEN);
  t = speaker(this.locale);
  study = null;
  info = null;
  over = false;

  /** Ask until the server answers, and say so meanwhile. */
  async ask(attempt) {
    const answer = await insist(attempt, () => say(this.t("waiting"), "bad"));
    say("");
    return answer;
  }

  async openStudy() {
    this.study = await this.ask(() => this.api.get(`studies/${encodeURIComponent(slug)}`));
    this.locale = bestLocale(Object.keys(this.study.question));
    this.t = speaker(this.locale);
    document.documentElement.lang = this.locale;
    document.title = this.study.title;
  }

  /** Hold a session from now on, and make this page's address the way back to it. */
  hold(token) {
    this.api.token = token;
    remember(`session.${slug}`, token);
    history.replaceState(null, "", location.pathname + location.search + RESUME + token);
  }

  letGo() {
    forget(`session.${slug}`);
  }

  withdraw = async () => {
    this.over = true;
    await this.ask(() => this.api.post("session/withdraw"));
    discard(this.api.token);
    this.letGo();
    location.reload(); // the server now answers this link with the farewell
  };
}

async function main(visit) {
  const token = await heldToken(visit);
  if (token) {
    visit.hold(token);
    await sendKept(visit);
    visit.info = await visit.ask(() => visit.api.get("session"));
    if (CLOSED.includes(visit.info.study_status)) return afterwards(visit);
  }
  await visit.openStudy();
  if (!token && !await join(visit)) return thankAnyway(visit);
  if (visit.info.status !== "completed" && visit.info.status !== "screened_out") {
    const home = await prepare(visit);
    if (home) {
      visit.letGo();
      return sendHome(visit, home.code);
    }
  }
  return compare(visit);
}

/** The token of the link, or of this browser's session if people want to go on with it. */
async function heldToken(visit) {
  if (location.hash.startsWith(RESUME)) return location.hash.slice(RESUME.length);
  const token = recall(`session.${slug}`);
  if (token === null || await askWhetherToResume(visit)) return token;
  visit.letGo();
  return null;
}

/** Consent and questions; false where somebody declines. */
async function join(visit) {
  const consent = await askConsent(visit);
  if (consent === null) return false;
  const questionnaire = await askAboutListener(visit);
  const body = { ...consent, locale: visit.locale, questionnaire, client: clientFacts(audio()) };
  const path = `studies/${encodeURIComponent(slug)}/participants`;
  const { token } = await visit.ask(() => visit.api.post(path, body));
  visit.hold(token);
  visit.info = await visit.ask(() => visit.api.get("session"));
  return true;
}

/** Volume and headphones, once per tab; where to send people who may not go on. */
async function prepare(visit) {
  const prepared = `prepared.${visit.api.token}`;
  if (sessionValue(prepared)) return null;
  await setVolume(visit);
  const home = await checkHeadphones(visit, visit.info.screening);
  sessionValue(prepared, "yes");
  return home;
}

/** Votes that were given before a reload or in another tab, and never acknowledged. */
async function sendKept(visit) {
  for (const vote of kept(visit.api.token)) {
    say(visit.t("keptNow"));
    try {
      await deliver(visit.api, vote, () => say(visit.t("notSaved"), "bad"));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      say(visit.t("tooLate"), "bad");
    }
  }
}

/** Trial after trial, until there is none left. */
async function compare(visit) {
  let step = null;
  for (;;) {
    step ??= await insist(() => visit.api.post("trials/next"),
      () => say(visit.t("waiting"), "bad"));
    if (step.done) break;
    step = await runTrial(visit, step.trial);
  }
  visit.letGo(); // the next person at this computer begins anew; the link stays valid
  visit.info = await visit.ask(() => visit.api.get("session"));
  if (visit.info.status === "screened_out") sendHome(visit, step.code);
  else thank(visit, step.code);
}

/** Something to remember in this tab alone; with one argument, what is remembered. */
function sessionValue(name, value) {
  try {
    if (value !== undefined) sessionStorage.setItem(name, value);
    return sessionStorage.getItem(name);
  } catch {
    return null; // no storage: the checks are shown again after a reload
  }
}

const visit = new Visit();
document.documentElement.lang = visit.locale;
document.documentElement.classList.toggle("framed", window.top !== window);
addEventListener("unhandledrejection", (event) => stop(visit, event.reason));
main(visit).catch((error) => {
  if (["withdrawn", "expired", "unauthorised"].includes(error.code)) visit.letGo();
  if (!(error instanceof Refusal)) console.error(error);
  stop(visit, error);
});
