// Clip cards: play, seek, copy, remove. One set of listeners on the document serves every card,
// so cards can come and go without being wired one by one. No library, no network but the clips.
(() => {
  "use strict";

  const cardOf = (element) => element.closest("article.clip");
  const audioOf = (card) => card.querySelector("audio");
  const clock = (seconds) => {
    const whole = Math.floor(seconds + 1e-6);
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  };

  function show(card) {
    const audio = audioOf(card);
    const seconds = Number(card.dataset.seconds) || 1;
    const seek = card.querySelector("[data-seek]");
    card.style.setProperty("--at", Math.min(1, audio.currentTime / seconds));
    card.querySelector("[data-now]").textContent = clock(audio.currentTime);
    seek.value = audio.currentTime;
    seek.setAttribute("aria-valuetext", `${clock(audio.currentTime)} of ${clock(seconds)}`);
  }

  function follow(card) {
    show(card);
    if (!audioOf(card).paused) requestAnimationFrame(() => follow(card));
  }

  function markPlaying(card, playing) {
    card.classList.toggle("playing", playing);
    card.classList.toggle("touched", true);
    card.querySelector("[data-play]").setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  function say(button, text) {
    const before = button.dataset.label || button.textContent;
    button.dataset.label = before;
    button.textContent = text;
    setTimeout(() => { button.textContent = before; }, 1600);
  }

  async function copyText(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    // Plain http from another machine has no clipboard API; a selected text area still copies.
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) throw new Error("copy refused");
  }

  const actions = {
    "data-play": (card) => {
      const audio = audioOf(card);
      if (audio.paused) audio.play().catch(() => card.classList.add("gone"));
      else audio.pause();
    },
    "data-copy": (card, button) => {
      const text = JSON.stringify(JSON.parse(card.dataset.settings), null, 2);
      copyText(text).then(() => say(button, "Copied"), () => say(button, "Copying was refused"));
    },
    "data-link": (card, button) => {
      const settings = new URLSearchParams(JSON.parse(card.dataset.settings));
      copyText(`${location.origin}${location.pathname}?${settings}`)
        .then(() => say(button, "Copied"), () => say(button, "Copying was refused"));
    },
    "data-remove": (card) => {
      const list = card.parentElement;
      audioOf(card).pause();
      card.remove();
      list.dispatchEvent(new CustomEvent("clipschange"));
    },
  };

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const card = cardOf(event.target);
    const button = card && event.target.closest("button");
    if (!button) return;
    for (const [name, act] of Object.entries(actions)) {
      if (button.hasAttribute(name)) act(card, button);
    }
  });

  document.addEventListener("input", (event) => {
    if (!event.target.matches?.("[data-seek]")) return;
    const card = cardOf(event.target);
    card.classList.add("touched");
    audioOf(card).currentTime = Number(event.target.value);
    show(card);
  });

  // The position slider is fine enough for a pointer; keys move in steps one can hear.
  document.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!way || !event.target.matches?.("[data-seek]")) return;
    event.preventDefault();
    const card = cardOf(event.target);
    const seconds = Number(card.dataset.seconds);
    const to = audioOf(card).currentTime + way * Math.min(1, seconds / 10);
    audioOf(card).currentTime = Math.max(0, Math.min(seconds, to));
    card.classList.add("touched");
    show(card);
  });

  // Media events do not bubble; capturing at the document still sees them.
  const onMedia = (name, act) => document.addEventListener(name, (event) => {
    const card = event.target instanceof HTMLMediaElement && cardOf(event.target);
    if (card) act(card, event.target);
  }, true);
  onMedia("play", (card, audio) => {
    document.querySelectorAll("article.clip audio").forEach((other) => {
      if (other !== audio) other.pause();
    });
    markPlaying(card, true);
    follow(card);
  });
  onMedia("pause", (card) => { markPlaying(card, false); show(card); });
  onMedia("seeked", show);
  onMedia("error", (card) => card.classList.add("gone"));
})();
