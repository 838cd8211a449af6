// Sounds that the page makes itself: a noise as loud as the clips, and the two published headphone
// checks, each as three sounds of which one is the odd one out.
// Huggins pitch (Milne et al. 2021): the same noise on both ears, but for a narrow band whose phase
// is turned on one ear; over loudspeakers the tone that this makes is lost.
// Antiphase (Woods et al. 2017): which of three tones is the quietest? One is 6 dB down, and one has
// its ears in opposite phase, which loudspeakers cancel and headphones do not.

const RATE = 44100;
const SOUND_SECONDS = 1.0;
const GAP_SECONDS = 0.5;
const RAMP_SECONDS = 0.1;
const CHECK_LUFS = -20;
const PITCH = { frequency: 600, Q: 8.3 }; // the phase turns by 180 degrees within 6 % either way
const TONE_HZ = 200;
const QUIETER = 10 ** (-6 / 20);

/** Soft noise of the given loudness, on one channel. */
export async function loudNoise(lufs, seconds = 4) {
  return levelled(await filtered(white(seconds), [
    { type: "lowpass", frequency: 300, Q: 0 }, { type: "highpass", frequency: 60, Q: 0 },
  ]), lufs);
}

/** Three sounds in a row on two channels; number `odd` (0, 1 or 2) is the one to find. */
export async function headphoneSound(kind, odd) {
  const buffer = kind === "hp" ? await huggins(odd) : antiphase(odd, (odd + 1 + coin()) % 3);
  return levelled(buffer, CHECK_LUFS);
}

/** A whole number below `n`, from the browser's cryptographic generator. */
export function draw(n) {
  const number = crypto.getRandomValues(new Uint32Array(1))[0];
  return Math.floor(number / 2 ** 32 * n);
}

const coin = () => draw(2);
const onset = (index) => Math.round(index * (SOUND_SECONDS + GAP_SECONDS) * RATE);
const length = Math.round(SOUND_SECONDS * RATE);

function blank(channels, samples) {
  return new AudioBuffer({ numberOfChannels: channels, length: samples, sampleRate: RATE });
}

function white(seconds) {
  const buffer = blank(1, Math.round(seconds * RATE));
  const samples = buffer.getChannelData(0);
  for (let i = 0; i < samples.length; i += 1) samples[i] = 2 * Math.random() - 1;
  return buffer;
}

async function filtered(buffer, filters) {
  const context = new OfflineAudioContext(buffer.numberOfChannels, buffer.length, RATE);
  const source = new AudioBufferSourceNode(context, { buffer });
  const last = filters.reduce(
    (node, options) => node.connect(new BiquadFilterNode(context, options)), source);
  last.connect(context.destination);
  source.start();
  return context.startRendering();
}

/** The same sound at a loudness measured as ITU-R BS.1770 weights it, gate left out. */
async function levelled(buffer, lufs) {
  const weighted = await filtered(buffer, [
    { type: "highshelf", frequency: 1682, gain: 4 }, { type: "highpass", frequency: 38, Q: -6 },
  ]);
  let power = 0;
  let sounding = 0; // silence between sounds would count as quiet
  for (let channel = 0; channel < weighted.numberOfChannels; channel += 1) {
    const samples = weighted.getChannelData(channel);
    sounding = buffer.getChannelData(0).reduce((n, sample) => n + (sample !== 0), 0);
    power += samples.reduce((sum, sample) => sum + sample * sample, 0) / sounding;
  }
  const gain = 10 ** ((lufs + 0.691 - 10 * Math.log10(power)) / 20);
  for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
    const samples = buffer.getChannelData(channel);
    samples.forEach((sample, i) => { samples[i] = gain * sample; });
  }
  return buffer;
}

/** Loudness of a sound within its second: it comes and goes without a click. */
const envelope = (i) =>
  Math.min(1, i / (RAMP_SECONDS * RATE), (length - 1 - i) / (RAMP_SECONDS * RATE));

async function huggins(odd) {
  const noise = white(onset(2) / RATE + SOUND_SECONDS);
  const turned = (await filtered(noise, [{ type: "allpass", ...PITCH }])).getChannelData(0);
  const plain = noise.getChannelData(0);
  return threeSounds((index, i) => {
    const at = onset(index) + i;
    return [plain[at], index === odd ? turned[at] : plain[at]];
  });
}

function antiphase(quiet, opposed) {
  return threeSounds((index, i) => {
    const level = index === quiet ? QUIETER : 1;
    const tone = level * Math.sin(2 * Math.PI * TONE_HZ * i / RATE);
    return [tone, index === opposed ? -tone : tone];
  });
}

function threeSounds(sample) {
  const buffer = blank(2, onset(2) + length);
  const [left, right] = [buffer.getChannelData(0), buffer.getChannelData(1)];
  for (let index = 0; index < 3; index += 1) {
    for (let i = 0; i < length; i += 1) {
      const at = onset(index) + i;
      [left[at], right[at]] = sample(index, i).map((value) => envelope(i) * value);
    }
  }
  return buffer;
}
