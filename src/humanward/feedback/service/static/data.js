// Files into the project and out of it.

import { call, get } from "./api.js";
import { $, count, h, meta } from "./dom.js";
import { attempt, failed, formProblem, guarded } from "./forms.js";

const view = $("#view");
const id = meta("project");
const COUNTED = { prompts: "prompt", completions: "answer", rankings: "ranking", ratings: "rating", tasks: "item" };

async function start() {
  const [formats, project] = await Promise.all([get("/formats"), get(`/projects/${id}`)]);
  const result = h("div", { role: "status" });
  view.replaceChildren(h("div", { className: "stack wide" }, importer(formats, result), exporter(formats, project)));
}

function importer(formats, result) {
  const problem = formProblem();
  const file = h("input", { type: "file", name: "file", required: true, accept: ".jsonl,.ndjson,.json,.csv,.tsv,.gz" });
  const format = h("select", { name: "format" }, h("option", { value: "auto" }, "Recognise it"), formats.map(({ name, summary }) => h("option", { value: name }, `${name}: ${summary}`)));
  const skip = h("input", { type: "checkbox", name: "skip" });
  const submit = guarded(problem, async () => {
    const [chosen] = file.files;
    result.replaceChildren(h("p", { className: "notice" }, `Reading ${chosen.name}…`));
    const query = new URLSearchParams({ format: format.value, filename: chosen.name, skip_bad: skip.checked });
    try {
      const told = await call("POST", `/projects/${id}/import?${query}`, chosen, { raw: true });
      result.replaceChildren(outcome(told));
    } catch (error) {
      result.replaceChildren();
      throw error;
    }
  });
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Import"),
    h("p", { className: "muted" }, "JSON lines, JSON or CSV, also gzipped, up to 200 MB. What is there already is not added twice."),
    h(
      "form",
      { className: "stack panel", on: { submit } },
      h("div", { className: "fields" }, h("label", { className: "field" }, "File", file), h("label", { className: "field" }, "Format", format)),
      h("label", { className: "check" }, skip, "Leave out bad rows and keep the good ones"),
      problem,
      h("div", { className: "row" }, h("button", { className: "primary" }, "Import")),
    ),
    result,
  );
}

function outcome(told) {
  const added = Object.entries(COUNTED).filter(([key]) => told[key]).map(([key, word]) => count(told[key], word));
  const notes = Object.entries(told.notes).map(([note, number]) => `${note}: ${number.toLocaleString("en")}`);
  return h(
    "div",
    { className: told.bad ? "notice warn stack" : "notice good stack" },
    h("p", {}, `${count(told.rows, "row")} read, ${told.bad.toLocaleString("en")} left out. `, added.length ? `New: ${added.join(", ")}.` : "Nothing in it was new."),
    told.single ? h("p", {}, `${count(told.single, "prompt")} with a single answer: nothing to compare, so no item.`) : null,
    notes.length ? h("p", { className: "small" }, notes.join(" · ")) : null,
    told.reasons.length ? h("ul", { className: "small" }, told.reasons.map((reason) => h("li", {}, reason))) : null,
    told.tasks ? h("p", {}, h("a", { href: `/projects/${id}/items` }, "Look at the items")) : null,
  );
}

function exporter(formats, { progress }) {
  const links = formats.filter(({ written }) => written).map(({ name, summary }) =>
    h("li", { className: "panel row between" }, h("div", {}, h("h3", {}, name), h("p", { className: "muted small" }, summary)), h("a", { className: "button small-button", href: `/api/v1/projects/${id}/export?format=${encodeURIComponent(name)}`, download: true, "aria-label": `Download as ${name}`, on: { click: (event) => fetched(event, name) } }, "Download")),
  );
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Export"),
    h("p", { className: "muted" }, "The format humanward keeps everything and can be imported again without loss; the others hold what they can."),
    progress.tasks ? h("ul", { className: "downloads" }, links) : h("div", { className: "empty" }, "Nothing to export yet."),
  );
}

/** A plain download would fail without a word where a format cannot hold what the project has. */
function fetched(event, format) {
  event.preventDefault();
  const link = event.currentTarget;
  if (link.getAttribute("aria-disabled") === "true") return undefined;
  link.setAttribute("aria-disabled", "true");
  return attempt(async () => {
    try {
      const { name, blob } = await get(`/projects/${id}/export?format=${encodeURIComponent(format)}`, { file: true });
      const url = URL.createObjectURL(blob);
      h("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } finally {
      link.removeAttribute("aria-disabled");
    }
  });
}

start().catch(failed(view));
