// Several clips, one transport. All clips always run together, started at the same instant of the
// audio clock, and switching only moves the volume from one to the other: whatever second is heard
// of A, the same second of B follows, without a gap and without a click. Clips may join while others
// play. Used by listening studies (specification, section 6.4) and by the app's Stages tab.

export const FADE_SECONDS = 0.010; // equal-power crossfade
const LEAD_SECONDS = 0.020; // scheduled a little ahead, so that both clips are ready to start
const STEPS = 64;
const RISE = Float32Array.from({ length: STEPS }, (_, i) => Math.sin(i / (STEPS - 1) * Math.PI / 2));
const FALL = RISE.slice().reverse();

export class Transport {
  #context;
  #clips = {}; // per side: {buffer, level}
  #voices = null; // per side: {source, level, gain}, while playing
  #offset = 0; // place within the clip when playing began, or where it stopped
  #startedAt = 0; // on the audio clock
  #fadedAt = 0; // until then a fade is under way, and none may begin

  /**
   * @param context any BaseAudioContext; `buffers` clips of equal length by their sides, of which
   *     the first in the alphabet is heard first; `onended` is called when a clip that does not
   *     loop has been played to its end.
   */
  constructor(context, buffers, onended = () => {}) {
    this.#context = context;
    this.onended = onended;
    this.side = null;
    this.loop = true;
    for (const side of Object.keys(buffers).sort()) this.add(side, buffers[side]);
  }

  /** One more clip; it joins in where the others are. */
  add(side, buffer) {
    this.#clips[side] = { buffer, level: 1 };
    this.side ??= side;
    if (!this.playing) return;
    const at = this.#context.currentTime + LEAD_SECONDS;
    const place = (this.position + LEAD_SECONDS) % this.duration;
    this.#voices[side] = this.#voice(side, at, place);
  }

  /** Play a clip louder or softer than it is: `level` times its samples. */
  setLevel(side, level) {
    this.#clips[side].level = level;
    this.#voices?.[side].level.gain.setValueAtTime(level, this.#context.currentTime);
  }

  get duration() {
    return this.#clips[this.#first].buffer.duration;
  }

  get #first() {
    return Object.keys(this.#clips)[0];
  }

  get playing() {
    return this.#voices !== null;
  }

  /** Place within the clip in seconds, from 0 to its duration. */
  get position() {
    if (!this.playing) return this.#offset;
    const passed = Math.max(0, this.#context.currentTime - this.#startedAt);
    return (this.#offset + passed) % this.duration;
  }

  play() {
    if (this.playing) return;
    const at = Math.max(this.#context.currentTime + LEAD_SECONDS, this.#fadedAt);
    this.#voices = Object.fromEntries(Object.keys(this.#clips)
      .map((side) => [side, this.#voice(side, at, this.#offset)]));
    this.#startedAt = at;
    this.#fade(this.side, RISE, at);
  }

  pause() {
    if (!this.playing) return;
    this.#offset = this.position;
    const voices = this.#voices;
    const at = Math.max(this.#context.currentTime, this.#fadedAt);
    this.#fade(this.side, FALL, at);
    this.#voices = null;
    for (const { source } of Object.values(voices)) {
      source.onended = null;
      source.stop(at + FADE_SECONDS);
    }
  }

  /** Let another clip be heard, at the same place. */
  select(side) {
    if (side === this.side) return;
    if (this.playing) {
      const at = Math.max(this.#context.currentTime, this.#fadedAt);
      this.#fade(this.side, FALL, at);
      this.#fade(side, RISE, at);
    }
    this.side = side;
  }

  seek(seconds) {
    const playing = this.playing;
    this.pause();
    this.#offset = Math.min(Math.max(0, seconds), this.duration) % this.duration;
    if (playing) this.play();
  }

  setLoop(loop) {
    this.loop = loop;
    for (const { source } of Object.values(this.#voices ?? {})) source.loop = loop;
  }

  #voice(side, at, place) {
    const clip = this.#clips[side];
    const gain = new GainNode(this.#context, { gain: 0 });
    const level = new GainNode(this.#context, { gain: clip.level });
    const source = new AudioBufferSourceNode(this.#context,
      { buffer: clip.buffer, loop: this.loop });
    source.connect(level).connect(gain).connect(this.#context.destination);
    source.start(at, place);
    if (side === this.#first) source.onended = () => this.#end();
    return { source, level, gain };
  }

  #fade(side, curve, at) {
    this.#voices[side].gain.gain.setValueCurveAtTime(curve, at, FADE_SECONDS);
    this.#fadedAt = at + FADE_SECONDS + 0.001; // curves must not touch
  }

  #end() {
    this.#voices = null;
    this.#offset = 0;
    this.onended();
  }
}
