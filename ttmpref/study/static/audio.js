// The page's one audio context. Browsers let it sound only after a click or a key, so it is woken by
// whatever is pressed to hear something.

let context = null;

export function audio() {
  context ??= new AudioContext();
  return context;
}

/** Play a sound now; an object whose `stop` ends it. */
export function playOnce(buffer, { loop = false } = {}) {
  const source = new AudioBufferSourceNode(audio(), { buffer, loop });
  source.connect(audio().destination);
  audio().resume();
  source.start();
  return source;
}
