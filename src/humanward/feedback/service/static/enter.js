// A one-time link. What is behind # never left the browser; it is read here, shown to nobody, and posted once.

import { post } from "./api.js";
import { $, bdi, h, meta, moment } from "./dom.js";

const ROLES = { annotator: "to judge answers", reviewer: "to judge and review answers", admin: "as an admin", owner: "as an owner of this server" };
const view = $("#view");
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);

async function start() {
  if (!token) {
    show("This is not a whole link", h("p", {}, "Open the link exactly as you got it; the part after # is missing."), toSignIn());
    return;
  }
  const link = await post("/session/link", { token });
  if (link.kind === "sign-in") signIn(link);
  else invitation(link);
}

function signIn({ name }) {
  const button = h("button", { type: "submit", className: "primary" }, "Sign in");
  // A button, not at once: programs that look at links in messages must not use them up.
  show("Welcome back", form(h("p", {}, "This link signs you in as ", h("strong", {}, bdi(name)), ". It works once."), button));
  button.focus();
}

function invitation({ name, role, project, expires_at: expires }) {
  const own = h("input", { name: "name", required: true, maxlength: 100, autocomplete: "username", value: name });
  const password = h("input", { name: "password", type: "password", minlength: 10, maxlength: 200, autocomplete: "new-password" });
  show(
    project ? ["You are invited to ", bdi(project)] : "You are invited",
    h("p", { className: "muted" }, `You join ${ROLES[role] ?? role}. The link works once, until `, moment(expires), "."),
    meta("user") ? joinAs() : null,
    form(
      h("label", { className: "field" }, "Your name, as others here see it", own),
      h("label", { className: "field" }, "Password, if you want one", password, h("span", { className: "hint" }, "At least 10 characters. Without one, links are your only way in.")),
      h("button", { type: "submit", className: "primary" }, meta("user") ? "Join as somebody new" : "Join"),
    ),
  );
  if (!meta("user")) own.focus();
}

function joinAs() {
  const button = h("button", { type: "button", className: "primary", on: { click: () => enter(() => post("/session/join", { token })) } }, "Join as ", bdi(meta("user-name")));
  return h("div", { className: "stack" }, button, h("p", { className: "muted" }, "or"));
}

function form(...content) {
  const submit = (event) => {
    event.preventDefault();
    const data = new FormData(event.target);
    const body = { token };
    for (const key of ["name", "password"]) if (data.get(key)) body[key] = data.get(key);
    enter(() => post("/session/enter", body));
  };
  return h("form", { className: "stack", novalidate: true, on: { submit } }, content, h("p", { className: "problem", role: "alert", hidden: true }));
}

async function enter(act) {
  const problem = $(".problem", view);
  problem.hidden = true;
  try {
    const { projects } = await act();
    location.assign(projects.length === 1 ? `/projects/${projects[0].id}` : "/");
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }
}

function show(title, ...content) {
  view.replaceChildren(h("h1", {}, title), ...content.filter(Boolean));
}

function toSignIn() {
  return h("p", {}, h("a", { className: "button", href: "/sign-in" }, "Sign in"));
}

start().catch((error) => {
  const gone = error.code === "link_gone";
  show(
    gone ? "This link works no more" : "This did not work",
    h("p", {}, gone ? "It was used, revoked or is too old. Ask whoever sent it for a new one." : error.message),
    meta("user") ? h("p", {}, h("a", { className: "button", href: "/" }, "To your projects")) : toSignIn(),
  );
});
