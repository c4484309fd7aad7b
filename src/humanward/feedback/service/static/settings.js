// A project's settings and the words of its criteria.

import { get, patch } from "./api.js";
import { $, bdi, h, meta, toast } from "./dom.js";
import { failed, formProblem, guarded } from "./forms.js";

const view = $("#view");
const id = meta("project");

async function show() {
  const project = await get(`/projects/${id}`);
  view.replaceChildren(h("div", { className: "stack wide" }, settings(project), h("section", { className: "section" }, h("h2", {}, "Criteria and guidelines"), h("p", { className: "muted" }, "Each criterion gets an order of its own. Guidelines are Markdown."), project.criteria.map(criterion)), archive(project)));
}

function number(project, name, title, hint, attributes) {
  return h("label", { className: "field" }, title, h("input", { type: "number", name, value: project[name], required: true, ...attributes }), hint ? h("span", { className: "hint" }, hint) : null);
}

function box(project, name, title) {
  return h("label", { className: "check" }, h("input", { type: "checkbox", name, checked: project[name] }), title);
}

function settings(project) {
  const problem = formProblem();
  const rating = project.mode === "rating";
  const mode = h("select", { name: "mode", disabled: project.progress.tasks > 0 }, [["ranking", "Ranking"], ["pairwise", "A or B"], ["rating", "Rating"]].map(([value, text]) => h("option", { value, selected: value === project.mode }, text)));
  const minutes = h("input", { type: "number", name: "minutes", min: 0.5, max: 1440, step: "any", value: project.lease_seconds / 60, required: true });
  const submit = guarded(problem, async (form) => {
    const data = new FormData(form);
    const wanted = { description: data.get("description"), lease_seconds: Math.round(Number(data.get("minutes")) * 60) };
    for (const name of ["overlap", "max_overlap", "extra_above", "gold_share"]) wanted[name] = Number(data.get(name));
    if (data.has("rating_scale")) wanted.rating_scale = Number(data.get("rating_scale"));
    if (!mode.disabled) wanted.mode = mode.value;
    for (const name of ["allow_ties", "allow_none_acceptable"]) wanted[name] = data.has(name);
    // Only what was changed: a new number of opinions takes its upper bound with it unless that is set too.
    const change = Object.fromEntries(Object.entries(wanted).filter(([name, value]) => value !== project[name]));
    await patch(`/projects/${id}`, change);
    toast("Settings kept.");
    await show();
  });
  return h(
    "form",
    { className: "stack", novalidate: true, on: { submit } },
    h("div", { className: "fields wide" }, h("label", { className: "field" }, "What the project is about", h("input", { name: "description", maxlength: 500, value: project.description }))),
    h(
      "div",
      { className: "fields at-top" },
      h("label", { className: "field" }, "How answers are judged", mode, h("span", { className: "hint" }, mode.disabled ? "Stays as it is once there are items." : "")),
      rating ? number(project, "rating_scale", "Best score", "Scores are 1 to this.", { min: 2, max: 10 }) : null,
      h("label", { className: "field" }, "Minutes for an item", minutes, h("span", { className: "hint" }, "Then somebody else may get it; working renews them.")),
      number(project, "gold_share", "Share of gold items", "How often an item with a known answer comes.", { min: 0, max: 1, step: "any" }),
    ),
    h(
      "div",
      { className: "fields at-top" },
      number(project, "overlap", "Opinions on each item", "Changes all items at once.", { min: 1, max: 100 }),
      number(project, "max_overlap", "At most", "While people differ, more are asked for, up to this.", { min: 1, max: 100 }),
      number(project, "extra_above", "They differ above", "Share of pairs judged differently.", { min: 0, max: 1, step: "any" }),
    ),
    h("div", { className: "row" }, rating ? null : box(project, "allow_ties", "Ties are allowed"), box(project, "allow_none_acceptable", "“None acceptable” is offered")),
    problem,
    h("div", { className: "row" }, h("button", { className: "primary" }, "Keep settings")),
  );
}

function criterion(own) {
  const problem = formProblem();
  const submit = guarded(problem, async (form) => {
    const data = new FormData(form);
    await patch(`/projects/${id}/criteria/${encodeURIComponent(own.name)}`, { title: data.get("title"), short: data.get("short"), guidelines: data.get("guidelines") });
    toast("Kept.");
  });
  return h(
    "details",
    { className: "panel" },
    h("summary", {}, bdi(own.title)),
    h(
      "form",
      { className: "stack", novalidate: true, on: { submit } },
      h("label", { className: "field" }, "Title", h("input", { name: "title", maxlength: 100, value: own.title })),
      h("label", { className: "field" }, "In one sentence", h("input", { name: "short", maxlength: 500, value: own.short })),
      h("label", { className: "field" }, "Guidelines", h("textarea", { name: "guidelines", maxlength: 20000, rows: 16, value: own.guidelines })),
      problem,
      h("div", { className: "row" }, h("button", { className: "primary" }, "Keep")),
    ),
  );
}

function archive({ archived }) {
  const problem = formProblem();
  const submit = guarded(problem, async () => {
    await patch(`/projects/${id}`, { archived: !archived });
    await show();
  });
  return h(
    "section",
    { className: "section" },
    h("h2", {}, archived ? "This project is archived" : "Archive"),
    h("p", { className: "muted" }, archived ? "Nothing is judged; everything can be seen and exported." : "Nothing is judged any more; everything can still be seen and exported. It can be opened again."),
    h("form", { on: { submit } }, problem, h("button", { className: archived ? "" : "danger", type: "submit" }, archived ? "Open it again" : "Archive the project")),
  );
}

show().catch(failed(view));
