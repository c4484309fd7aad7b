// One's projects; owners of the server make new ones here.

import { get, post } from "./api.js";
import { $, bdi, h, meta } from "./dom.js";
import { guarded, formProblem } from "./forms.js";

const MODES = { ranking: "Ranking", pairwise: "A or B", rating: "Rating" };
const CRITERIA = ["overall", "helpful", "honest", "harmless"];
const view = $("#view");

async function start() {
  const projects = await get("/projects");
  const mine = await Promise.all(projects.map(({ id }) => get(`/projects/${id}/me`)));
  const cards = projects.map((project, index) => card(project, mine[index]));
  const owner = meta("owner") === "yes";
  view.replaceChildren(
    h(
      "div",
      { className: "stack wide" },
      cards.length
        ? h("div", { className: "columns" }, cards)
        : h("div", { className: "empty" }, h("h2", {}, "No projects yet"), h("p", {}, owner ? "Make one below, then bring in prompts with their answers." : "When somebody invites you to a project, it shows up here.")),
      owner ? creation(!cards.length) : null,
    ),
  );
}

function card(project, { submitted, left, leased }) {
  const todo = left + leased;
  return h(
    "section",
    { className: "panel section" },
    h("div", { className: "row between" }, h("h2", {}, h("a", { href: `/projects/${project.id}` }, bdi(project.name))), h("span", { className: "tag" }, project.archived ? "Archived" : MODES[project.mode])),
    project.description ? h("p", { className: "muted" }, project.description) : null,
    h("p", { className: "small muted number" }, `You: ${submitted.toLocaleString("en")} done, ${todo.toLocaleString("en")} to go`),
    h("progress", { max: Math.max(1, submitted + todo), value: submitted, "aria-label": `Your progress in ${project.name}` }),
    h(
      "div",
      { className: "row" },
      project.archived ? null : h("a", { className: todo ? "button primary" : "button", href: `/projects/${project.id}/label` }, leased ? "Go on" : "Label"),
      h("a", { className: "button", href: `/projects/${project.id}` }, "Overview"),
    ),
  );
}

function creation(open) {
  const name = h("input", { name: "name", required: true, maxlength: 100 });
  const about = h("input", { name: "description", maxlength: 500 });
  const mode = h("select", { name: "mode" }, Object.entries(MODES).map(([value, text]) => h("option", { value }, text)));
  const overlap = h("input", { name: "overlap", type: "number", min: 1, max: 100, value: 2 });
  const boxes = CRITERIA.map((value, index) => h("label", { className: "check" }, h("input", { type: "checkbox", name: "criteria", value, checked: index === 0 }), value[0].toUpperCase() + value.slice(1)));
  const own = h("input", { name: "own", maxlength: 200, placeholder: "concise, friendly" });
  const problem = formProblem();
  const submit = guarded(problem, async (form) => {
    const data = new FormData(form);
    const others = data.get("own").split(/[\s,]+/).filter(Boolean);
    const made = await post("/projects", {
      name: data.get("name"),
      description: data.get("description"),
      mode: data.get("mode"),
      overlap: Number(data.get("overlap")),
      criteria: [...data.getAll("criteria"), ...others].map((each) => ({ name: each })),
    });
    location.assign(`/projects/${made.id}/data`);
  });
  return h(
    "details",
    { className: "panel", open },
    h("summary", {}, "New project"),
    h(
      "form",
      { className: "stack", on: { submit } },
      h("div", { className: "fields" }, h("label", { className: "field" }, "Name", name), h("label", { className: "field" }, "What it is about", about)),
      h("div", { className: "fields" }, h("label", { className: "field" }, "How answers are judged", mode), h("label", { className: "field" }, "Opinions wanted on each item", overlap)),
      h("fieldset", { className: "bare" }, h("legend", { className: "field" }, "Criteria: each gets an order of its own"), h("div", { className: "row" }, boxes)),
      h("label", { className: "field" }, "Criteria of your own, if you like", own),
      problem,
      h("div", { className: "row" }, h("button", { className: "primary" }, "Make the project")),
    ),
  );
}

start().catch((error) => view.replaceChildren(h("p", { className: "notice bad" }, error.message)));
