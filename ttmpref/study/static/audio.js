// The page's one audio context. Browsers let it sound only after a click or a key, so it is woken by
// whatever is pressed to hear something; and where no sound can come, the page says so.

import { say } from "./dom.js";

const WAKING_MS = 2000; // longer, and people wonder

let context = null;

export function audio() {
  context ??= new AudioContext();
  return context;
}

/** Let sound begin. Some browsers wait for an output device as long as there is none. */
export async function wake(t) {
  let told = false;
  const late = setTimeout(() => {
    told = true;
    say(t("noSound"), "bad");
  }, WAKING_MS);
  await audio().resume();
  clearTimeout(late);
  if (told) say("");
}

/** Whether there is nothing to hear with; other browsers play into the void without a word. */
export async function outputMissing() {
  if (!("setSinkId" in AudioContext.prototype) || !navigator.mediaDevices) return false; // cannot tell
  const devices = await navigator.mediaDevices.enumerateDevices().catch(() => null);
  return devices !== null && !devices.some(({ kind }) => kind === "audiooutput");
}

/** Play a sound as soon as sound can begin; an object whose `stop` ends it. */
export function playOnce(buffer, t, { loop = false } = {}) {
  const source = new AudioBufferSourceNode(audio(), { buffer, loop });
  source.connect(audio().destination);
  wake(t);
  source.start();
  return source;
}
