// Before anything is drawn: the theme that Airflow's UI has, else that of the system (prefers-color-scheme).
(() => {
  const shown = () => {
    try {
      const { classList } = window.parent.document.documentElement;
      if (window.parent !== window && classList.contains("dark")) return "dark";
      if (window.parent !== window && classList.contains("light")) return "light";
    } catch { /* another origin frames it: the system decides */ }
    return "";
  };
  const apply = () => {
    const theme = shown();
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  apply();
  try {
    new MutationObserver(apply).observe(window.parent.document.documentElement, { attributeFilter: ["class"] });
  } catch { /* the same */ }
})();
