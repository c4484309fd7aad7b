// Elements without markup: every text goes in as a text node, so nothing that a person wrote can become code.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "dataset") {
      Object.assign(element.dataset, value);
    } else if (name === "value" || name === "checked" || name === "disabled") {
      element[name] = value;
    } else {
      element.setAttribute(name === "className" ? "class" : name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

export const $ = (selector, within = document) => within.querySelector(selector);

export function meta(name) {
  return $(`meta[name="${name}"]`)?.content ?? "";
}

/** Text of people stands alone, so that right-to-left names do not reorder what is around them. */
export function bdi(text) {
  return h("bdi", {}, String(text));
}

/** Tells screen readers; the same words twice are told twice. */
export function say(text) {
  const place = $("#spoken");
  place.textContent = "";
  requestAnimationFrame(() => {
    place.textContent = text;
  });
}

/** A line at the bottom for a few seconds, with an action if there is one. */
export function toast(text, { action, onAction, seconds = 6 } = {}) {
  const box = h("div", { className: "toast" }, h("span", {}, text));
  const close = () => box.remove();
  if (action) box.append(h("button", { type: "button", on: { click: () => (close(), onAction()) } }, action));
  else box.append(h("button", { type: "button", "aria-label": "Dismiss", on: { click: close } }, "✕"));
  $("#toasts").replaceChildren(box);
  setTimeout(close, seconds * 1000);
  return close;
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`;
}

export function fixed(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 90 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

const dates = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** A moment in the reader's own time zone; the exact one is in the attribute. */
export function moment(iso) {
  // The server's times are UTC, with or without saying so.
  const exact = /Z|[+-]\d\d:\d\d$/.test(iso) ? iso : `${iso}Z`;
  return h("time", { datetime: exact, title: exact }, dates.format(new Date(exact)));
}

export function table(columns, rows, { label, className = "" }) {
  const cell = (tag, column, content) =>
    h(tag, { className: column.className, scope: tag === "th" ? (column.row ? "row" : "col") : null }, content);
  return h(
    "div",
    { className: `table ${className}`, tabindex: "0", role: "region", "aria-label": label },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { className: c.className, scope: "col" }, c.title)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((c) => cell(c.row ? "th" : "td", c, c.of(row)))))),
    ),
  );
}

export function figure(name, value, note = "") {
  return h("div", { className: "figure" }, h("dt", {}, name), h("dd", {}, value), note && h("dd", { className: "note small" }, note));
}
