// The answers as equal cards: a letter, the text, and the buttons that set a rank or a score.

import { h } from "./dom.js";
import { openable } from "./prompt.js";
import { prose } from "./rich.js";

export class Cards {
  /** `mode` is ranking, pairwise or rating; `most` is the highest value; the hooks are told label and value. */
  constructor({ answers, trees, mode, most, onValue, onActive }) {
    Object.assign(this, { answers, mode, most, onValue, onActive });
    this.labels = answers.map(({ label }) => label);
    this.active = this.labels[0];
    this.parts = new Map();
    this.element = h(
      "div",
      { className: `cards ${mode} k${answers.length}`, role: "group", "aria-label": "Answers" },
      answers.map((answer, index) => this.#card(answer, trees?.[index])),
    );
    this.#roving();
  }

  #card({ label, text }, tree) {
    const body = h("div", { className: "card-body" }, prose(text, tree));
    if (!text.trim()) body.replaceChildren(h("p", { className: "muted" }, "This answer is empty."));
    const edge = h("div", { className: "edged" }, body);
    const toggle = openable(edge, body, text, `answer ${label}`);
    const status = h("span", { className: "card-status" });
    // For pointers alone: keys and the buttons below do the same.
    const handle = this.mode === "ranking" ? h("span", { className: "handle", title: "Drag to a place", "aria-hidden": "true" }) : null;
    const buttons = this.mode === "pairwise" ? [] : this.#buttons(label);
    const card = h(
      "article",
      { className: "card", tabindex: "-1", role: "group", dataset: { label } },
      h("div", { className: "card-head" }, handle, h("h2", { className: "letter" }, h("span", { className: "sr-only" }, "Answer "), label), status, toggle),
      edge,
      buttons.length
        ? h(
            "div",
            { className: "card-foot" },
            h("span", { className: "card-foot-name", "aria-hidden": "true" }, this.mode === "rating" ? "Score" : "Rank"),
            h("div", { className: "values", role: "group", "aria-label": `${this.mode === "rating" ? "Score" : "Rank"} of answer ${label}` }, buttons),
          )
        : null,
    );
    card.addEventListener("focusin", () => this.activate(label));
    card.addEventListener("pointerdown", () => this.activate(label));
    this.parts.set(label, { card, status, buttons, handle, body, toggle });
    return card;
  }

  #buttons(label) {
    const word = this.mode === "rating" ? "Score" : "Rank";
    return Array.from({ length: this.most }, (_, index) =>
      h(
        "button",
        {
          type: "button",
          className: "value",
          "aria-label": `${word} ${index + 1} for answer ${label}`,
          "aria-pressed": "false",
          on: { click: () => this.onValue(label, index + 1) },
        },
        String(index + 1),
      ),
    );
  }

  /** The card that digits go to. */
  activate(label) {
    if (label === this.active) return;
    this.active = label;
    this.#roving();
    this.onActive?.(label);
  }

  /** Where the keys start: with two answers to choose from, no card is special. */
  begin() {
    if (this.mode === "pairwise") document.querySelector("#main").focus({ preventScroll: true });
    else this.focus(this.labels[0], { scroll: false });
  }

  focus(label, { scroll = true } = {}) {
    this.activate(label);
    const { card } = this.parts.get(label);
    card.focus({ preventScroll: true });
    if (scroll) card.scrollIntoView({ block: "nearest" });
  }

  move(step) {
    const at = this.labels.indexOf(this.active) + step;
    this.focus(this.labels[Math.max(0, Math.min(this.labels.length - 1, at))]);
  }

  toggleFull(label) {
    this.parts.get(label).toggle.click();
  }

  handles() {
    return [...this.parts].flatMap(([label, { handle }]) => (handle ? [[label, handle]] : []));
  }

  /** Show what is judged; `judgements` and `criterion` say what. */
  update(judgements, criterion) {
    const tiers = judgements.tiers(criterion);
    for (const [label, { card, status, buttons }] of this.parts) {
      const value = judgements.value(criterion, label);
      const place = tiers.findIndex((tier) => tier.includes(label)) + 1;
      const tied = this.mode !== "rating" && place ? tiers[place - 1].filter((other) => other !== label) : [];
      const words = this.#words(value, tied);
      status.textContent = this.mode === "pairwise" ? "" : words;
      card.classList.toggle("judged", value !== null);
      card.classList.toggle("best", this.mode === "pairwise" && place === 1 && !tied.length && tiers.length > 1);
      card.setAttribute("aria-label", `Answer ${label}, ${words || (this.mode === "rating" ? "not scored" : "not ranked")}`);
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(value === index + 1)));
    }
  }

  #words(value, tied) {
    if (value === null) return "";
    if (this.mode === "rating") return `${value} of ${this.most}`;
    return `Rank ${value}${tied.length ? `, tied with ${tied.join(", ")}` : ""}`;
  }

  // One stop of the Tab key for all cards, then the buttons of the active one.
  #roving() {
    for (const [label, { card, buttons, body }] of this.parts) {
      const own = label === this.active;
      card.classList.toggle("active", own);
      card.tabIndex = own ? 0 : -1;
      // A box that scrolls must be reachable, or its end cannot be read without a mouse.
      body.tabIndex = 0;
      body.setAttribute("role", "group");
      body.setAttribute("aria-label", `Text of answer ${label}`);
      for (const button of buttons) button.tabIndex = own ? 0 : -1;
    }
  }
}
