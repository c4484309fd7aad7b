// The order so far, always in sight: one box a place. Answers are dropped into a box (a tie) or between two.

import { h } from "./dom.js";
import { draggable } from "./drag.js";

const SEAM = 0.28; // the share of a box, at either side, that means "between"

export class Places {
  constructor({ labels, ties, onPlace, onInsert, onChip }) {
    Object.assign(this, { labels, ties, onPlace, onInsert, onChip });
    this.slots = [null, ...labels.map((_, index) => index + 1)].map((place) => {
      const chips = h("span", { className: "chips" });
      const name = place === null ? "not ranked" : String(place);
      const slot = h(
        "li",
        { className: place === null ? "slot unranked" : "slot", dataset: { place: place ?? "" } },
        h("span", { className: "slot-name" }, name),
        chips,
      );
      return { place, slot, chips };
    });
    this.element = h("ol", { className: `places k${labels.length}`, "aria-label": "Order so far" }, this.slots.map(({ slot }) => slot));
  }

  /** Make a handle or a chip something that can be dragged here. */
  accept(handle, label) {
    draggable(handle, label, {
      over: (x, y) => this.#over(x, y, label),
      drop: ({ place, side }) => {
        if (side) this.onInsert(label, place, side === "after");
        else this.onPlace(label, place);
      },
      end: () => this.#mark(null),
    });
  }

  update(judgements, criterion) {
    for (const { place, slot, chips } of this.slots) {
      const here = this.labels.filter((label) => judgements.value(criterion, label) === place);
      slot.classList.toggle("tie", place !== null && here.length > 1);
      slot.style.flexGrow = place === null ? "" : String(Math.max(1, here.length));
      chips.replaceChildren(...here.map((label) => this.#chip(label, place)));
    }
  }

  #chip(label, place) {
    const where = place === null ? "not ranked" : `rank ${place}`;
    const chip = h("button", { type: "button", className: "chip", "aria-label": `Go to answer ${label}, ${where}` }, label);
    chip.addEventListener("click", () => this.onChip(label));
    this.accept(chip, label);
    return chip;
  }

  #over(x, y, label) {
    const found = document.elementFromPoint(x, y)?.closest(".slot");
    const entry = this.slots.find(({ slot }) => slot === found);
    if (!entry) return this.#mark(null);
    const { place, slot, chips } = entry;
    const others = [...chips.children].filter((chip) => chip.textContent !== label).length;
    const box = slot.getBoundingClientRect();
    const share = (x - box.left) / box.width;
    let side = "";
    if (place !== null && others) {
      if (share < SEAM) side = "before";
      else if (share > 1 - SEAM) side = "after";
      else if (!this.ties) side = share < 0.5 ? "before" : "after";
    }
    return this.#mark({ place, side, slot });
  }

  #mark(target) {
    for (const { slot } of this.slots) slot.classList.remove("target", "before", "after");
    target?.slot.classList.add(target.side || "target");
    return target;
  }
}
