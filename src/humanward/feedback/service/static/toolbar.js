// The line above a task: progress, lease, what is saved, and how the task is shown.

import { count, h, say } from "./dom.js";

const SAVED = { saving: "Saving…", saved: "Draft saved", local: "Draft kept in this browser", none: "" };

/** Choices of how a task is shown, kept in this browser. */
export const looks = {
  get layout() {
    return localStorage.getItem("humanward.layout") === "stack" ? "stack" : "columns";
  },
  set layout(value) {
    localStorage.setItem("humanward.layout", value);
  },
  get text() {
    return localStorage.getItem("humanward.text") === "plain" ? "plain" : "formatted";
  },
  set text(value) {
    localStorage.setItem("humanward.text", value);
  },
};

export class Toolbar {
  /** `actions` are {previous, guidelines, keys, looks, keepLease}, each called without arguments. */
  constructor(actions) {
    this.progress = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.counts = h("span", { className: "number" });
    this.lease = h("button", { type: "button", className: "lease quiet small-button", title: "Time until somebody else may get this item; press to start it again", on: { click: actions.keepLease } });
    this.saved = h("span", { className: "saved muted small" });
    this.layout = this.#switch("layout", { columns: "Layout: side by side", stack: "Layout: stacked" }, actions.looks);
    this.text = this.#switch("text", { formatted: "Text: formatted", plain: "Text: plain" }, actions.looks);
    this.previous = this.#button("Previous", actions.previous);
    this.element = h(
      "div",
      { className: "toolbar" },
      h("div", { className: "toolbar-facts" }, h("div", { className: "done" }, this.counts, this.progress), this.lease, this.saved),
      h("div", { className: "toolbar-actions" }, this.previous, this.layout, this.text, this.#button("Guidelines", actions.guidelines), this.#button("Keys", actions.keys)),
    );
    this.warned = false;
  }

  showProgress({ submitted, left, leased }) {
    const all = submitted + left + leased;
    this.counts.textContent = `${submitted.toLocaleString("en")} done · ${(left + leased).toLocaleString("en")} to go`;
    this.progress.max = Math.max(1, all);
    this.progress.value = submitted;
    this.progress.setAttribute("aria-label", `${submitted} of ${all} items done`);
  }

  /** `state` is the assignment's; only a live lease runs out. */
  showLease(state, secondsLeft) {
    this.lease.hidden = state !== "leased";
    if (state !== "leased") return;
    const minutes = Math.floor(secondsLeft / 60);
    const shown = secondsLeft >= 120 ? `${minutes} min left` : `${minutes}:${String(Math.floor(secondsLeft % 60)).padStart(2, "0")} left`;
    if (this.lease.textContent !== shown) this.lease.textContent = shown;
    const late = secondsLeft < 120;
    this.lease.classList.toggle("late", late);
    if (late && !this.warned) say(`${count(Math.ceil(secondsLeft), "second")} left for this item`);
    this.warned = late;
  }

  showSaved(state) {
    this.saved.textContent = SAVED[state];
  }

  #button(text, action) {
    return h("button", { type: "button", className: "quiet small-button", on: { click: action } }, text);
  }

  #switch(name, words, changed) {
    const button = this.#button("", () => {
      const values = Object.keys(words);
      looks[name] = values[1 - values.indexOf(looks[name])];
      button.textContent = words[looks[name]];
      changed();
      say(words[looks[name]]);
    });
    button.classList.add(`switch-${name}`);
    button.textContent = words[looks[name]];
    return button;
  }
}
