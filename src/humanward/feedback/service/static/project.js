// One's own work in a project, and what it is about; reviewers also see how far the project is.

import { get, rendered } from "./api.js";
import { $, bdi, count, figure, h, meta, percent } from "./dom.js";
import { failed } from "./forms.js";
import { prose } from "./rich.js";

const view = $("#view");
const id = meta("project");

async function start() {
  const [project, me] = await Promise.all([get(`/projects/${id}`), get(`/projects/${id}/me`)]);
  const trees = await rendered(project.criteria.map(({ guidelines }) => guidelines));
  const todo = me.left + me.leased;
  view.replaceChildren(
    h(
      "div",
      { className: "stack wide" },
      h(
        "section",
        { className: "section" },
        project.description ? h("p", { className: "lead" }, project.description) : null,
        h(
          "dl",
          { className: "figures" },
          figure("You judged", me.submitted.toLocaleString("en"), me.skipped ? `${me.skipped.toLocaleString("en")} skipped` : ""),
          figure("To go", todo.toLocaleString("en"), me.leased ? "one is waiting for you" : ""),
          figure("Your agreement on gold items", percent(me.gold_accuracy), me.gold_answered ? `over ${count(me.gold_answered, "item")} whose answer is known` : "no gold item yet"),
        ),
        h("progress", { max: Math.max(1, me.submitted + todo), value: me.submitted, "aria-label": "Your progress" }),
        h(
          "div",
          { className: "row" },
          project.archived
            ? h("p", { className: "notice warn" }, "This project is archived: nothing is judged any more.")
            : h("a", { className: "button primary", href: `/projects/${id}/label` }, me.leased ? "Go on" : me.submitted ? "Label the next" : "Start"),
          h("a", { className: "button", href: `/projects/${id}/history` }, "My answers"),
        ),
      ),
      meta("role") === "annotator" ? null : everybody(project),
      h(
        "section",
        { className: "section" },
        h("h2", {}, project.criteria.length > 1 ? "What is judged" : "Guidelines"),
        project.criteria.map((criterion, index) =>
          h(
            "details",
            { className: "panel", open: project.criteria.length === 1 },
            h("summary", {}, h("span", {}, bdi(criterion.title), h("span", { className: "muted" }, project.criteria.length > 1 ? ` – ${criterion.short}` : ""))),
            h("div", { className: "guideline flow" }, prose(criterion.guidelines, trees[index])),
          ),
        ),
      ),
    ),
  );
}

function everybody({ progress, overlap }) {
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Everybody"),
    h(
      "dl",
      { className: "figures" },
      figure("Items done", `${progress.done.toLocaleString("en")} of ${(progress.done + progress.open).toLocaleString("en")}`, `${count(overlap, "opinion")} each`),
      figure("Opinions", `${progress.opinions.toLocaleString("en")} of ${progress.opinions_wanted.toLocaleString("en")}`, progress.leases ? `${progress.leases} being judged now` : ""),
      figure("Gold items", progress.gold.toLocaleString("en")),
      figure("Open flags", progress.open_flags.toLocaleString("en"), progress.open_flags ? h("a", { href: `/projects/${id}/review#flagged` }, "Look at them") : ""),
    ),
    h("progress", { max: Math.max(1, progress.opinions_wanted), value: progress.opinions, "aria-label": "Progress of the project" }),
  );
}

start().catch(failed(view));
