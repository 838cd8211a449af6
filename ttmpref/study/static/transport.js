// Two clips, one transport. Both clips always run together, started at the same instant of the
// audio clock, and switching only moves the volume from one to the other: whatever second is heard
// of A, the same second of B follows, without a gap and without a click.
// Specification of listening studies, section 6.4.

export const FADE_SECONDS = 0.010; // equal-power crossfade
const LEAD_SECONDS = 0.020; // scheduled a little ahead, so that both clips are ready to start
const STEPS = 64;
const RISE = Float32Array.from({ length: STEPS }, (_, i) => Math.sin(i / (STEPS - 1) * Math.PI / 2));
const FALL = RISE.slice().reverse();

export class Transport {
  #context;
  #buffers;
  #voices = null; // per side: {source, gain}, while playing
  #offset = 0; // place within the clip when playing began, or where it stopped
  #startedAt = 0; // on the audio clock
  #fadedAt = 0; // until then a fade is under way, and none may begin

  /**
   * @param context any BaseAudioContext; `buffers` {A, B} of equal length; `onended` is called when
   *     a clip that does not loop has been played to its end.
   */
  constructor(context, buffers, onended = () => {}) {
    this.#context = context;
    this.#buffers = buffers;
    this.onended = onended;
    this.side = "A";
    this.loop = true;
  }

  get duration() {
    return this.#buffers.A.duration;
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
    this.#voices = { A: this.#voice("A", at), B: this.#voice("B", at) };
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

  /** Let the other clip be heard, at the same place. */
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

  #voice(side, at) {
    const gain = new GainNode(this.#context, { gain: 0 });
    gain.connect(this.#context.destination);
    const source = new AudioBufferSourceNode(this.#context,
      { buffer: this.#buffers[side], loop: this.loop });
    source.connect(gain);
    source.start(at, this.#offset);
    if (side === "A") source.onended = () => this.#end();
    return { source, gain };
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
