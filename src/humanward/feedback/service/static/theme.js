// Runs before the first paint: the colours that were chosen here, or else the system's.
(() => {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const choice = () => {
    try {
      return localStorage.getItem("humanward.theme") || "auto";
    } catch {
      return "auto";
    }
  };
  const apply = () => {
    const chosen = choice();
    document.documentElement.dataset.theme = chosen === "auto" ? (system.matches ? "dark" : "light") : chosen;
  };
  apply();
  system.addEventListener("change", apply);
  window.addEventListener("storage", apply);
  window.humanwardTheme = { apply, choice };
})();
