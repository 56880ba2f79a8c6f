// Before the first paint, and therefore no module: the theme chosen earlier, where one was.
"use strict";
{
  const themes = ["system", "light", "dark"];

  const stored = () => {
    try {
      return localStorage.getItem("tamis-theme");
    } catch {
      return null; // Storage may be forbidden; the page works without.
    }
  };

  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };

  let current = themes.includes(stored()) ? stored() : "system";
  show(current);

  window.tamisTheme = {
    get current() {
      return current;
    },
    next() {
      current = themes[(themes.indexOf(current) + 1) % themes.length];
      show(current);
      try {
        localStorage.setItem("tamis-theme", current);
      } catch {
        // As above.
      }
      return current;
    },
  };
}
