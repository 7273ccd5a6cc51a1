// A classic script: the chosen theme and language are there before the first paint. See src/lib/prefs.svelte.ts.
(function () {
  var root = document.documentElement;
  try {
    var theme = localStorage.getItem("qqvl.theme");
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
    var chosen = localStorage.getItem("qqvl.lang");
    var own = (navigator.language || "zh").toLowerCase();
    root.lang = (chosen || (own.indexOf("en") === 0 ? "en" : "zh")) === "en" ? "en" : "zh-CN";
  } catch {
    // Storage may be forbidden; the page goes by the system then.
  }
})();
