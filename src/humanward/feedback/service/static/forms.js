// Forms and actions that may be refused: the reason is shown where it belongs.

import { h, toast } from "./dom.js";

export function formProblem() {
  return h("p", { className: "problem", role: "alert", hidden: true });
}

/** A submit listener: no reload, the button rests meanwhile, a refusal is shown in `problem`. */
export function guarded(problem, act) {
  return async (event) => {
    event.preventDefault();
    const form = event.target;
    const button = form.querySelector("button.primary, button[type=submit]");
    problem.hidden = true;
    if (button) button.disabled = true;
    try {
      await act(form);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    } finally {
      if (button) button.disabled = false;
    }
  };
}

/** Do it; a refusal becomes a line at the bottom. True when it was done. */
export async function attempt(act) {
  try {
    await act();
    return true;
  } catch (error) {
    toast(error.message);
    return false;
  }
}

/** A secret that is shown this once, with a button that copies it. */
export function secret(text, about) {
  // Browsers offer the clipboard only by https or on this machine; elsewhere a click selects the whole text.
  const copy = h("button", { type: "button", className: "small-button", hidden: !navigator.clipboard }, "Copy");
  copy.addEventListener("click", async () => {
    if (await attempt(() => navigator.clipboard.writeText(text))) copy.textContent = "Copied";
  });
  return h("div", { className: "stack notice" }, h("p", {}, about), h("p", { className: "secret" }, text), h("div", { className: "row" }, copy));
}

export function failed(view) {
  return (error) => view.replaceChildren(h("p", { className: "notice bad", role: "alert" }, error.message));
}

/** Buttons to the pages before and after; `go(offset)` shows another. */
export function pager(offset, limit, total, go) {
  if (total <= limit) return null;
  const last = Math.min(total, offset + limit);
  const button = (text, to, off) => h("button", { type: "button", className: "small-button", disabled: off, on: { click: () => go(to) } }, text);
  return h(
    "div",
    { className: "row end" },
    h("span", { className: "muted small number" }, `${(offset + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${total.toLocaleString("en")}`),
    button("Before", Math.max(0, offset - limit), offset === 0),
    button("After", offset + limit, last >= total),
  );
}
