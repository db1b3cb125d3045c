"use strict";
// The page works without this; with it, values show where one looks, and series can be switched.
(() => {
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const root = document.documentElement;

  // Dark and light: as the system says, until the switch says otherwise.
  const theme = document.querySelector(".theme");
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (prefers.matches ? "dark" : "light")) === "dark";
  const say = () => theme.setAttribute("aria-pressed", isDark());
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; say(); });
  prefers.addEventListener("change", say);
  say();

  // A contender is switched in every chart at once.
  const switchSeries = (number, on) => {
    all(`.legend [data-of="${number}"]`).forEach((b) => b.setAttribute("aria-pressed", on));
    all(`.plot [data-of="${number}"]`).forEach((g) => g.classList.toggle("off", !on));
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".legend button");
    if (button) switchSeries(button.dataset.of, button.getAttribute("aria-pressed") !== "true");
  });

  // Looking at a point: the pointer finds the nearest, arrow keys walk.
  const middle = (mark) => {
    const box = mark.getBoundingClientRect();
    // A bar is looked at where it ends.
    const x = mark.classList.contains("bar") ? box.right : box.x + box.width / 2;
    return { x, y: box.y + box.height / 2 };
  };
  const near = 48;

  for (const plot of all(".plot")) {
    const tip = plot.querySelector(".tip");
    const svg = plot.querySelector("svg");
    const visible = () => all(".series:not(.off)", svg).map((g) => all(".mark", g)).filter((marks) => marks.length);
    let looked = null;

    const leave = () => {
      if (looked) { looked.classList.remove("at"); looked.closest(".series").classList.remove("at"); }
      looked = null;
      svg.classList.remove("looked");
      tip.hidden = true;
    };
    const look = (mark) => {
      if (mark === looked) return;
      leave();
      looked = mark;
      mark.classList.add("at");
      mark.closest(".series").classList.add("at");
      svg.classList.add("looked");
      tip.textContent = `${mark.closest(".series").dataset.name}, ${mark.dataset.said}`;
      tip.hidden = false;
      const frame = plot.getBoundingClientRect(), at = middle(mark);
      const left = at.x - frame.x - tip.offsetWidth / 2;
      const above = at.y - frame.y - tip.offsetHeight - 12;
      tip.style.left = `${Math.max(0, Math.min(left, frame.width - tip.offsetWidth))}px`;
      tip.style.top = `${above < 0 ? at.y - frame.y + 14 : above}px`;
    };

    plot.addEventListener("pointermove", (event) => {
      const row = event.target.closest(".series");
      let best = null, least = near;
      for (const mark of visible().flat()) {
        const at = middle(mark);
        const isHere = row && event.target.classList.contains("bar") && event.target === mark;
        const far = isHere ? 0 : Math.hypot(at.x - event.clientX, at.y - event.clientY);
        if (far < least) { best = mark; least = far; }
      }
      if (best) look(best); else leave();
    });
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("blur", leave);
    plot.addEventListener("focus", () => { const first = visible()[0]; if (first && !looked) look(first[0]); });
    plot.addEventListener("keydown", (event) => {
      const series = visible();
      if (event.key === "Escape") return leave();
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step || !series.length || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const s = Math.max(0, series.findIndex((marks) => marks.includes(looked)));
      const p = Math.max(0, series[s].indexOf(looked));
      const next = series[(s + step[0] + series.length) % series.length];
      look(next[Math.max(0, Math.min(p + step[1], next.length - 1))]);
    });
  }

  // On paper everything is open.
  addEventListener("beforeprint", () => all("details").forEach((d) => { d.open = true; }));
})();
