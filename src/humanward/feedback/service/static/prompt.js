// The prompt: it stays in sight while the answers scroll, and can be opened to its full length.

import { count, h } from "./dom.js";
import { prose } from "./rich.js";

const ROLES = { system: "Instruction to the assistant", user: "Person", assistant: "Assistant" };

export function promptView(messages, trees) {
  const alone = messages.length === 1 && messages[0].role === "user";
  const turns = messages.map((message, index) =>
    h(
      "div",
      { className: `turn turn-${message.role}` },
      alone ? null : h("p", { className: "turn-role" }, ROLES[message.role] ?? message.role),
      prose(message.content, trees?.[index]),
    ),
  );
  const body = h("div", { className: "prompt-body", tabindex: "0", role: "group", "aria-label": "Prompt" }, turns);
  const edge = h("div", { className: "edged" }, body);
  const toggle = openable(edge, body, messages.map((message) => message.content).join(" "), "prompt");
  const view = h(
    "section",
    { className: "prompt", "aria-label": "Prompt" },
    h("div", { className: "prompt-head" }, h("h2", {}, alone ? "Prompt" : `Conversation, ${count(messages.length, "turn")}`), toggle),
    edge,
  );
  // What is answered is the last turn.
  requestAnimationFrame(() => {
    body.scrollTop = alone ? 0 : body.scrollHeight;
  });
  return view;
}

/** Tells the style sheet how much of the window the prompt and the dock take, so that a card fits between them. */
export function measure(view) {
  for (const [name, part] of [["--prompt", view.querySelector(".prompt")], ["--dock", view.querySelector(".dock")]]) {
    new ResizeObserver(() => {
      // A prompt that was opened scrolls away and takes nothing.
      const height = getComputedStyle(part).position === "sticky" ? part.offsetHeight : 0;
      document.documentElement.style.setProperty(name, `${height}px`);
    }).observe(part);
  }
}

/** A box that scrolls inside gets a visible edge where there is more, and a button that opens it whole. */
export function openable(edge, body, text, what) {
  const words = count(text.split(/\s+/).filter(Boolean).length, "word");
  const toggle = h("button", { type: "button", className: "link small show-all", hidden: true }, "");
  const look = () => {
    const open = edge.classList.contains("open");
    const overflows = body.scrollHeight > body.clientHeight + 2;
    toggle.hidden = !open && !overflows;
    toggle.textContent = open ? "Show less" : `Show all (${words})`;
    toggle.setAttribute("aria-label", open ? `Show less of the ${what}` : `Show all of the ${what}, ${words}`);
    edge.classList.toggle("more-above", body.scrollTop > 2);
    edge.classList.toggle("more-below", body.scrollTop + body.clientHeight < body.scrollHeight - 2);
  };
  toggle.addEventListener("click", () => {
    edge.classList.toggle("open");
    edge.dispatchEvent(new CustomEvent("opened", { bubbles: true }));
    look();
  });
  body.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(body);
  for (const child of body.children) new ResizeObserver(look).observe(child);
  return toggle;
}
