// What every page has: the colours' switch and signing out.

import { post } from "./api.js";
import { $, say, toast } from "./dom.js";

const THEMES = ["auto", "light", "dark"];
const theme = $("#theme");

function showTheme() {
  theme.textContent = `Theme: ${window.humanwardTheme.choice()}`;
}

theme.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(window.humanwardTheme.choice()) + 1) % THEMES.length];
  localStorage.setItem("humanward.theme", next);
  window.humanwardTheme.apply();
  showTheme();
  say(theme.textContent);
});
showTheme();

async function signOut() {
  const waiting = Object.keys(localStorage).filter((key) => key.startsWith("humanward.outbox."));
  if (waiting.some((key) => JSON.parse(localStorage.getItem(key)).length)) {
    toast("Answers are still waiting to be sent; stay signed in until they are.");
    return;
  }
  try {
    await post("/session/logout");
  } catch (error) {
    toast(error.message);
    return;
  }
  for (const key of Object.keys(localStorage)) if (key.startsWith("humanward.draft.")) localStorage.removeItem(key);
  location.assign("/sign-in");
}
// The account page draws its own button later.
document.addEventListener("click", (event) => event.target.closest(".sign-out") && signOut());

// The tab of this page is in sight on narrow screens too.
$(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
