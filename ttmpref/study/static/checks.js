// Before the first comparison: a comfortable volume, and the headphone check where a study has one.

import { outputMissing, playOnce } from "./audio.js";
import { insist } from "./api.js";
import { h, say, show } from "./dom.js";
import { draw, headphoneSound, loudNoise } from "./sounds.js";
import { footer } from "./footer.js";

const CHECK_SOUNDS = 6; // as published; the server wants five of six right

/** Let people set a comfortable volume on a noise as loud as the clips. */
export async function setVolume(visit) {
  const { t, study } = visit;
  const noise = await loudNoise(study.loudness_lufs);
  let sound = null;
  const stop = () => {
    sound?.stop();
    sound = null;
  };
  await new Promise((resolve) => {
    const toggle = h("button", { "aria-pressed": "false", onclick: () => {
      if (sound) stop();
      else sound = playOnce(noise, t, { loop: true });
      toggle.setAttribute("aria-pressed", String(sound !== null));
      toggle.textContent = t(sound ? "stopNoise" : "playNoise");
      done.disabled = false;
    } }, t("playNoise"));
    const done = h("button", { class: "main", disabled: true, onclick: resolve }, t("volumeSet"));
    show(
      h("h1", {}, t("volume")),
      h("section", { class: "panel" },
        h("p", {}, t("volumeText")),
        h("p", { class: "soft" }, t("volumePhone")),
        outputWarning(t),
        h("p", { class: "actions" }, toggle, done)),
      footer(visit),
    );
  });
  stop();
}

/** A line that stands there while this device has no sound output at all. */
function outputWarning(t) {
  const line = h("p", { class: "warning", role: "alert", hidden: true }, t("noOutput"));
  const look = async () => { line.hidden = !await outputMissing(); };
  navigator.mediaDevices?.addEventListener("devicechange", look);
  look();
  return line;
}

/**
 * The headphone check, up to two attempts where it is required.
 * @returns {null | {code: ?string}} null to go on; the code of those who are sent home.
 */
export async function checkHeadphones(visit, screening) {
  const { t, study, api } = visit;
  const { headphones: kind, required } = study.screening;
  let { passed, attempts_left: left } = screening;
  while (kind !== "none" && !passed && left > 0) {
    const score = await oneAttempt(visit, kind, required);
    if (score === null) return null; // somebody without headphones, where that is allowed
    const result = await insist(() => api.post("session/screening", { kind, score }),
      () => say(t("waiting"), "bad"));
    if (result.screened_out) return { code: result.code };
    ({ passed, attempts_left: left } = result);
    say(passed ? t("checkPassed") : `${t("checkFailed")} ${left ? t("checkRetry") : ""}`);
    if (!required) return null;
  }
  return null;
}

/** Share of right answers, or null where the check was skipped. */
async function oneAttempt(visit, kind, required) {
  let right = 0;
  for (let number = 1; number <= CHECK_SOUNDS; number += 1) {
    const odd = draw(3);
    const chosen = await oneSound(visit, kind, required, number, odd);
    if (chosen === null) return null;
    right += Number(chosen === odd);
  }
  return right / CHECK_SOUNDS;
}

async function oneSound(visit, kind, required, number, odd) {
  const { t } = visit;
  const buffer = await headphoneSound(kind, odd);
  let sound = null;
  const chosen = await new Promise((resolve) => {
    const answers = [0, 1, 2].map((index) =>
      h("button", { disabled: true, onclick: () => resolve(index) },
        t("soundNumber", { n: index + 1 })));
    const play = h("button", { class: "main", onclick: () => {
      sound?.stop();
      sound = playOnce(buffer, t);
      play.textContent = t("playAgain");
      answers.forEach((button) => { button.disabled = false; });
    } }, t("playSounds"));
    show(
      h("h1", {}, t("headphoneCheck")),
      h("p", { class: "lead" }, t(required ? "headphoneRequired" : "headphoneOptional")),
      h("section", { class: "panel" },
        h("p", { class: "soft" }, t("checkStep", { n: number, m: CHECK_SOUNDS })),
        h("p", {}, t(kind === "hp" ? "headphoneHp" : "headphoneAp")),
        h("p", { class: "actions" }, play),
        h("p", { class: "actions" }, answers)),
      required ? null : h("p", {},
        h("button", { class: "plain", onclick: () => resolve(null) }, t("skipCheck"))),
      footer(visit),
    );
  });
  sound?.stop();
  return chosen;
}
