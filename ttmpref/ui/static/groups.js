// Gradio puts choices that belong together into a fieldset without a name; what stands above them
// is it, for those who do not see that.
(() => {
  "use strict";

  let waiting = false;

  function name() {
    waiting = false;
    for (const group of document.querySelectorAll("fieldset:not([aria-label])")) {
      const label = group.querySelector("[data-testid='block-info']")?.textContent.trim();
      if (label) group.setAttribute("aria-label", label);
    }
  }

  new MutationObserver(() => {
    if (!waiting) requestAnimationFrame(name);
    waiting = true;
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
