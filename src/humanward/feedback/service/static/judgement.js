// What a person judged so far, without any page: ranks or scores by criterion, and every step back.

/** A state is {criterion: {values: {A: 1, …}, none: false}}; values are ranks (1 is best) or scores. */
export class Judgements {
  constructor(criteria, labels, rating = false) {
    this.criteria = criteria;
    this.labels = labels;
    this.rating = rating;
    this.past = [];
    this.state = Object.fromEntries(criteria.map((name) => [name, { values: {}, none: false }]));
  }

  /** Take over a draft, whatever it holds; what does not fit these criteria and letters is left out. */
  restore(state) {
    for (const name of this.criteria) {
      const { values = {}, none = false } = state?.[name] ?? {};
      const known = Object.entries(values).filter(([label, value]) => this.labels.includes(label) && Number.isInteger(value));
      this.state[name] = { values: Object.fromEntries(known), none: none === true };
    }
  }

  /** Take over an answer as the API gives it. */
  restoreAnswer(answer) {
    const state = {};
    for (const [name, { tiers, none_acceptable: none, scores }] of Object.entries(answer)) {
      const ranks = tiers.flatMap((tier, place) => tier.map((label) => [label, place + 1]));
      state[name] = { values: this.rating ? scores : Object.fromEntries(ranks), none };
    }
    this.restore(state);
  }

  value(criterion, label) {
    return this.state[criterion].values[label] ?? null;
  }

  /** The same value again takes it away, as pressing a key twice does. */
  set(criterion, label, value) {
    this.#change(criterion, (own) => {
      if (value === null || own.values[label] === value) delete own.values[label];
      else own.values[label] = value;
    });
  }

  /** Put an answer at a place of its own before (or after) those that hold `place`; the others move down. */
  insert(criterion, label, place, after = false) {
    this.#change(criterion, (own) => {
      const tiers = tiersOf(own.values)
        .map(({ rank, labels }) => ({ rank, labels: labels.filter((other) => other !== label) }))
        .filter(({ labels }) => labels.length);
      const at = tiers.filter(({ rank }) => (after ? rank <= place : rank < place)).length;
      tiers.splice(at, 0, { labels: [label] });
      own.values = Object.fromEntries(tiers.flatMap(({ labels }, index) => labels.map((each) => [each, index + 1])));
    });
  }

  /** All values at once. */
  assign(criterion, values) {
    this.#change(criterion, (own) => {
      own.values = { ...values };
    });
  }

  toggleNone(criterion) {
    this.#change(criterion, (own) => {
      own.none = !own.none;
    });
  }

  clear(criterion) {
    this.#change(criterion, (own) => {
      own.values = {};
      own.none = false;
    });
  }

  /** One step back; returns the criterion that it changed, or null when there is none. */
  undo() {
    const last = this.past.pop();
    if (!last) return null;
    this.state[last.criterion] = last.before;
    return last.criterion;
  }

  /** Letters by rank, the best first; gaps between ranks mean nothing. */
  tiers(criterion) {
    return tiersOf(this.state[criterion].values).map(({ labels }) => labels);
  }

  missing(criterion) {
    return this.labels.filter((label) => this.value(criterion, label) === null);
  }

  /** Complete: everything has a value; or none is acceptable and nothing was begun. */
  complete(criterion) {
    const { none } = this.state[criterion];
    const missing = this.missing(criterion).length;
    return missing === 0 || (none && !this.rating && missing === this.labels.length);
  }

  get empty() {
    return this.criteria.every((name) => !this.state[name].none && this.missing(name).length === this.labels.length);
  }

  /** As the API takes it. */
  body() {
    return Object.fromEntries(
      this.criteria.map((name) => {
        const { values, none } = this.state[name];
        return [name, this.rating ? { scores: values, none_acceptable: none } : { tiers: this.tiers(name), none_acceptable: none }];
      }),
    );
  }

  #change(criterion, change) {
    this.past.push({ criterion, before: structuredClone(this.state[criterion]) });
    change(this.state[criterion]);
  }
}

function tiersOf(values) {
  const ranks = [...new Set(Object.values(values))].sort((a, b) => a - b);
  return ranks.map((rank) => ({ rank, labels: Object.keys(values).filter((label) => values[label] === rank).sort() }));
}

/** "B, then A and C together": an order in words. */
export function inWords(tiers) {
  if (!tiers.length) return "nothing ranked";
  return tiers.map((tier) => tier.join(" and ") + (tier.length > 1 ? " together" : "")).join(", then ");
}

/** "B > A = C": an order in signs. */
export function inSigns(tiers) {
  return tiers.map((tier) => tier.join(" = ")).join(" > ");
}
