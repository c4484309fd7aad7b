// Dragging by a handle with pointer events: mouse, pen and touch alike. Escape gives up.

import { h } from "./dom.js";

const THRESHOLD = 5;

/** `over(x, y)` names what a drop there would do (or null) and shows it; `drop(what)` does it; `end()` tidies up. */
export function draggable(handle, label, { over, drop, end }) {
  handle.addEventListener("pointerdown", (start) => {
    if (start.button !== 0 || !start.isPrimary) return;
    start.preventDefault();
    let ghost = null;
    let target = null;

    const move = (event) => {
      if (event.pointerId !== start.pointerId) return;
      if (!ghost) {
        if (Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) < THRESHOLD) return;
        ghost = h("div", { className: "ghost", "aria-hidden": "true" }, label);
        document.body.append(ghost);
        document.body.classList.add("dragging");
      }
      ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`;
      target = over(event.clientX, event.clientY);
    };
    const stop = (done) => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", up);
      window.removeEventListener("pointercancel", cancel);
      window.removeEventListener("keydown", escape, true);
      document.body.classList.remove("dragging");
      const dragged = ghost !== null;
      ghost?.remove();
      end();
      if (done && dragged && target) drop(target);
      if (dragged) swallowClick();
    };
    const up = (event) => event.pointerId === start.pointerId && stop(true);
    const cancel = (event) => event.pointerId === start.pointerId && stop(false);
    const escape = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      stop(false);
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", up);
    window.addEventListener("pointercancel", cancel);
    window.addEventListener("keydown", escape, true);
  });
}

// A button that was dragged is not pressed as well.
function swallowClick() {
  const swallow = (event) => {
    event.stopPropagation();
    event.preventDefault();
  };
  window.addEventListener("click", swallow, { capture: true, once: true });
  setTimeout(() => window.removeEventListener("click", swallow, { capture: true }), 0);
}
