// What the page remembers in this browser. One that allows no storage (private modes, some frames)
// still works until the tab closes.

const PREFIX = "ttmpref.";
const memory = new Map();

export function remember(name, value) {
  memory.set(name, value);
  try { localStorage.setItem(PREFIX + name, value); } catch { /* memory has it */ }
}

export function recall(name) {
  try { return localStorage.getItem(PREFIX + name) ?? memory.get(name) ?? null; } catch {
    return memory.get(name) ?? null;
  }
}

export function forget(name) {
  memory.delete(name);
  try { localStorage.removeItem(PREFIX + name); } catch { /* there was nothing */ }
}

/** Everything that is remembered, by name. */
export function names() {
  let stored = [];
  try { stored = Object.keys(localStorage); } catch { /* memory is all there is */ }
  const own = stored.filter((name) => name.startsWith(PREFIX)).map((name) => name.slice(PREFIX.length));
  return [...new Set([...memory.keys(), ...own])];
}

/** A random UUID; `crypto.randomUUID` exists on https alone. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
