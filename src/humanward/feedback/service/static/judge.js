// Judging one task, whatever for: cards, the order so far, criteria, keys. Used for labelling and for adjudication.

import { Cards } from "./cards.js";
import { bdi, h, say } from "./dom.js";
import { Judgements, inWords } from "./judgement.js";
import { Places } from "./places.js";

export class Judge {
  /** `project` as the API gives it; `onChange` is called after every change. */
  constructor({ project, answers, trees, onChange }) {
    this.project = project;
    this.criteria = project.criteria;
    this.criterion = this.criteria[0].name;
    this.rating = project.mode === "rating";
    this.mode = this.rating ? "rating" : project.mode === "pairwise" && answers.length === 2 ? "pairwise" : "ranking";
    this.labels = answers.map(({ label }) => label);
    this.most = this.rating ? project.rating_scale : this.labels.length;
    this.onChange = onChange;
    this.judgements = new Judgements(this.criteria.map(({ name }) => name), this.labels, this.rating);
    this.cards = new Cards({ answers, trees, mode: this.mode, most: this.most, onValue: (label, value) => this.set(label, value) });
    this.order = this.#order();
    this.none = h("button", { type: "button", className: "none", "aria-pressed": "false", on: { click: () => this.toggleNone() } }, "None acceptable");
    this.none.hidden = !project.allow_none_acceptable;
    this.tabs = this.#tabs();
    this.update();
  }

  get complete() {
    return this.criteria.every(({ name }) => this.judgements.complete(name));
  }

  /** Restore a draft's state or an answer, without a step to undo. */
  restore(change) {
    change(this.judgements);
    this.update();
  }

  set(label, value) {
    const { judgements, criterion } = this;
    const taken = value !== null && !this.rating && this.labels.some((other) => other !== label && judgements.value(criterion, other) === value);
    if (taken && !this.project.allow_ties && judgements.value(criterion, label) !== value) {
      judgements.insert(criterion, label, value);
    } else {
      judgements.set(criterion, label, value);
    }
    this.#changed(this.#told(label));
  }

  insert(label, place, after) {
    this.judgements.insert(this.criterion, label, place, after);
    this.#changed(this.#told(label));
  }

  toggleNone() {
    if (!this.project.allow_none_acceptable) return;
    this.judgements.toggleNone(this.criterion);
    this.#changed(this.judgements.state[this.criterion].none ? "None acceptable: on" : "None acceptable: off");
  }

  clear() {
    this.judgements.clear(this.criterion);
    this.#changed("Cleared");
  }

  undo() {
    const criterion = this.judgements.undo();
    if (!criterion) {
      say("Nothing to undo");
      return;
    }
    this.criterion = criterion;
    this.#changed(`Undone. Now: ${this.#inWords()}`);
  }

  /** A judgement in one step for two answers: "A", "B" or "tie". */
  choose(choice) {
    if (choice === "tie" && !this.project.allow_ties) return;
    const [first, second] = this.labels;
    const order = choice === "tie" ? { [first]: 1, [second]: 1 } : { [choice]: 1, [choice === first ? second : first]: 2 };
    this.judgements.assign(this.criterion, order);
    this.#changed(choice === "tie" ? "Tie" : `${choice} is better`);
  }

  /** The first criterion that still needs something, or null. */
  incomplete() {
    return this.criteria.find(({ name }) => !this.judgements.complete(name))?.name ?? null;
  }

  show(criterion) {
    this.criterion = criterion;
    this.update();
    // On a phone the names of the criteria scroll away; whoever moves on must see where they are.
    this.tabs.scrollIntoView({ block: "nearest" });
    const { title } = this.criteria.find(({ name }) => name === criterion);
    say(`${title}: ${this.#inWords()}`);
  }

  step(by) {
    const at = this.criteria.findIndex(({ name }) => name === this.criterion) + by;
    const next = this.criteria[(at + this.criteria.length) % this.criteria.length];
    if (next.name !== this.criterion) this.show(next.name);
  }

  /** What is missing, as a line for people; empty when all is there. */
  problem() {
    const name = this.judgements.complete(this.criterion) ? this.incomplete() : this.criterion;
    if (!name) return "";
    const missing = this.judgements.missing(name);
    const { title } = this.criteria.find((each) => each.name === name);
    const where = this.criteria.length > 1 ? `${title}: ` : "";
    if (this.mode === "pairwise") return `${where}choose A, B${this.project.allow_ties ? " or a tie" : ""}`;
    const verb = this.rating ? "score" : "rank";
    const part = missing.length === this.labels.length ? `${verb} the answers` : `${verb} ${missing.join(", ")} too`;
    return this.judgements.state[name].none ? `${where}${part}, or clear the order` : where + part;
  }

  update() {
    const { judgements, criterion } = this;
    this.cards.update(judgements, criterion);
    this.order.update(judgements, criterion);
    this.none.setAttribute("aria-pressed", String(judgements.state[criterion].none));
    for (const tab of this.tabs.children) {
      const own = tab.dataset.name === criterion;
      tab.setAttribute("aria-pressed", String(own));
      tab.classList.toggle("done", judgements.complete(tab.dataset.name));
      tab.querySelector(".sr-only").textContent = judgements.complete(tab.dataset.name) ? ", complete" : "";
    }
  }

  /** The key, if it means something here; true when it did. */
  key(event) {
    const { key } = event;
    const digit = /^[1-9]$/.test(key) ? Number(key) : null;
    if (this.mode === "pairwise") {
      const choices = { a: "A", b: "B", 1: "A", 2: "B", t: "tie", "=": "tie", ArrowLeft: "A", ArrowRight: "B" };
      if (Object.hasOwn(choices, key) || Object.hasOwn(choices, key.toLowerCase())) this.choose(choices[key] ?? choices[key.toLowerCase()]);
      else if (key === "0" || key === "Backspace") this.clear();
      else return this.#commonKey(key);
      return true;
    }
    if (digit !== null) {
      if (digit > this.most) say(`There is no ${digit} here; the last is ${this.most}`);
      else this.set(this.cards.active, digit);
    } else if (key === "0" || key === "Backspace") {
      this.set(this.cards.active, null);
    } else {
      return this.#commonKey(key);
    }
    return true;
  }

  #commonKey(key) {
    const actions = {
      j: () => this.cards.move(1),
      k: () => this.cards.move(-1),
      n: () => this.toggleNone(),
      e: () => this.cards.toggleFull(this.cards.active),
      "[": () => this.step(-1),
      "]": () => this.step(1),
    };
    const action = actions[key.length === 1 ? key.toLowerCase() : key];
    action?.();
    return Boolean(action);
  }

  #changed(words) {
    this.update();
    say(words);
    this.onChange?.();
  }

  #told(label) {
    const value = this.judgements.value(this.criterion, label);
    if (value === null) return `${label}: ${this.rating ? "no score" : "not ranked"}`;
    return this.rating ? `${label}: ${value} of ${this.most}` : `${label}: rank ${value}. ${this.#inWords()}`;
  }

  #inWords() {
    if (!this.rating) return inWords(this.judgements.tiers(this.criterion));
    return this.labels.map((label) => `${label} ${this.judgements.value(this.criterion, label) ?? "not scored"}`).join(", ");
  }

  #tabs() {
    return h(
      "div",
      { className: "criteria", role: "group", "aria-label": "Criteria", hidden: this.criteria.length < 2 },
      this.criteria.map(({ name, title }) =>
        h("button", { type: "button", className: "criterion", dataset: { name }, on: { click: () => this.show(name) } }, bdi(title), h("span", { className: "sr-only" })),
      ),
    );
  }

  #order() {
    if (this.mode === "pairwise") return pairChoice(this);
    if (this.mode === "rating") return scores(this);
    const places = new Places({
      labels: this.labels,
      ties: this.project.allow_ties,
      onPlace: (label, place) => this.judgements.value(this.criterion, label) !== place && this.set(label, place),
      onInsert: (label, place, after) => this.insert(label, place, after),
      onChip: (label) => this.cards.focus(label),
    });
    for (const [label, handle] of this.cards.handles()) places.accept(handle, label);
    return places;
  }
}

/** A, tie or B: three buttons. */
function pairChoice(judge) {
  const choices = ["A", ...(judge.project.allow_ties ? ["tie"] : []), "B"];
  const buttons = choices.map((choice) =>
    h("button", { type: "button", className: "choice", "aria-pressed": "false", on: { click: () => judge.choose(choice) } }, choice === "tie" ? "Tie" : `${choice} is better`),
  );
  return {
    element: h("div", { className: "choices", role: "group", "aria-label": "Which is better?" }, buttons),
    update(judgements, criterion) {
      const tiers = judgements.tiers(criterion);
      const chosen = judgements.missing(criterion).length ? null : tiers.length === 1 ? "tie" : tiers[0][0];
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(choices[index] === chosen)));
    },
  };
}

/** Letters with their scores; a letter leads to its card. */
function scores(judge) {
  const chips = judge.labels.map((label) => h("button", { type: "button", className: "score", on: { click: () => judge.cards.focus(label) } }));
  return {
    element: h("div", { className: "scores", role: "group", "aria-label": "Scores so far" }, chips),
    update(judgements, criterion) {
      judge.labels.forEach((label, index) => {
        const value = judgements.value(criterion, label);
        chips[index].replaceChildren(h("span", { className: "letter" }, label), value === null ? "–" : String(value));
        chips[index].setAttribute("aria-label", `Go to answer ${label}, ${value === null ? "not scored" : `score ${value}`}`);
      });
    },
  };
}
