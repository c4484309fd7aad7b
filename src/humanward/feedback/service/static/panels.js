// What opens over the task: guidelines in a drawer, the keys, flagging, skipping.

import { rendered } from "./api.js";
import { $, bdi, h } from "./dom.js";
import { prose } from "./rich.js";

const KEYS = [
  ["1 … 9", "rank (or score) of the card in focus; the same digit on two cards is a tie", "ranking rating"],
  ["0, Backspace", "take the rank away", "ranking rating"],
  ["A, B, T", "A is better, B is better, tie", "pairwise"],
  ["0, Backspace", "take the choice away", "pairwise"],
  ["J, K", "next and previous card"],
  ["E", "open or close the card's whole text"],
  ["[ ]", "previous and next criterion", "criteria"],
  ["N", "none is acceptable"],
  ["S", "skip", "label"],
  ["F", "flag", "label"],
  ["P", "previous item", "label"],
  ["G", "guidelines"],
  ["Ctrl + Z", "undo"],
  ["Ctrl + Enter", "submit"],
  ["?", "this help"],
];
const REASONS = {
  broken: "Broken: empty, cut off, unreadable",
  unsafe: "Unsafe: dangerous or deeply upsetting",
  private: "Private: somebody's personal data",
  "off-topic": "Off topic: not what this project is about",
  duplicate: "Duplicate: I have had this one",
  language: "Language: one I cannot judge",
  other: "Something else",
};

/** A dialog that is gone when it closes; resolves with its return value ("" when it was given up). */
export function ask(title, ...content) {
  const dialog = h("dialog", { "aria-label": title }, h("div", { className: "stack" }, h("h2", {}, title), content));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

/** Whether single keys are on; people who dictate switch them off. */
export function singleKeys() {
  return localStorage.getItem("humanward.keys") !== "off";
}

export function showKeys({ mode, criteria, screen }) {
  const shown = KEYS.filter(([, , only = ""]) => {
    const needs = only.split(" ").filter(Boolean);
    return !needs.length || needs.includes(mode) || needs.includes(screen) || (needs.includes("criteria") && criteria > 1);
  });
  const box = h("input", { type: "checkbox", checked: singleKeys() });
  box.addEventListener("change", () => localStorage.setItem("humanward.keys", box.checked ? "on" : "off"));
  return ask(
    "Keys",
    h("dl", { className: "keys" }, shown.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("p", { className: "muted small" }, "A card's handle and the letters in the order can be dragged: onto a place, or between two."),
    h("label", { className: "check" }, box, "Single keys are on"),
    h("form", { method: "dialog", className: "row end" }, h("button", { className: "primary" }, "Close")),
  );
}

export async function askFlag() {
  const options = Object.entries(REASONS).map(([value, text], index) =>
    h("label", { className: "check" }, h("input", { type: "radio", name: "reason", value, checked: index === 0 }), text),
  );
  const comment = h("textarea", { maxlength: 5000, rows: 3 });
  const form = h(
    "form",
    { method: "dialog" },
    h("fieldset", { className: "bare" }, h("legend", { className: "sr-only" }, "Reason"), options),
    h("label", { className: "field" }, "Comment, if you like", comment),
    h("div", { className: "row end" }, h("button", { value: "", formnovalidate: true }, "Cancel"), h("button", { className: "primary", value: "flag" }, "Flag")),
  );
  const answer = await ask("What is wrong with this item?", form);
  return answer === "flag" ? { reason: $("input[name=reason]:checked", form).value, comment: comment.value } : null;
}

export async function askSkip() {
  const reason = h("input", { maxlength: 500 });
  const form = h(
    "form",
    { method: "dialog" },
    h("p", { className: "muted" }, "The item goes to somebody else and does not come back to you. Nobody will ask why."),
    h("label", { className: "field" }, "Reason, if you like", reason),
    h("div", { className: "row end" }, h("button", { type: "button", on: { click: () => form.closest("dialog").close("") } }, "Cancel"), h("button", { className: "primary", value: "skip" }, "Skip")),
  );
  return (await ask("Skip this item?", form)) === "skip" ? reason.value : null;
}

/** The guidelines: short at the top of the page, whole in a drawer that stays open beside the task. */
export class Guidelines {
  constructor(criteria) {
    this.criteria = criteria;
    this.body = h("div", { className: "drawer-body", tabindex: "0", role: "region", "aria-label": "Text of the guidelines" });
    this.title = h("h2", {});
    this.element = h(
      "aside",
      { className: "drawer", hidden: true, tabindex: "-1", "aria-label": "Guidelines" },
      h("div", { className: "drawer-head" }, this.title, h("button", { type: "button", className: "quiet", on: { click: () => this.toggle() } }, "Close")),
      this.body,
    );
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.toggle());
    document.body.append(this.element);
    this.trees = null;
  }

  async show(name) {
    const criterion = this.criteria.find((each) => each.name === name);
    this.shown = name;
    this.trees ??= rendered(this.criteria.map(({ guidelines }) => guidelines));
    const tree = (await this.trees)[this.criteria.indexOf(criterion)];
    if (this.shown !== name) return;
    this.title.replaceChildren(bdi(criterion.title));
    // The default guidelines begin with the same sentence.
    const lead = criterion.guidelines.includes(criterion.short) ? [] : [h("p", { className: "lead" }, criterion.short)];
    const text = prose(criterion.guidelines, tree);
    text.classList.add("flow");
    this.body.replaceChildren(...lead, text);
  }

  toggle(name = this.shown) {
    const opens = this.element.hidden;
    this.element.hidden = !opens;
    document.body.classList.toggle("with-drawer", opens);
    if (opens) {
      this.from = document.activeElement;
      this.show(name);
      this.element.focus();
    } else {
      this.from?.focus({ preventScroll: true });
    }
  }
}
