(() => {
  "use strict";
  const root = document.documentElement;
  const data = (id) => JSON.parse(document.getElementById(id).textContent);

  // light, dark, or as the system has it; a page opened from a file may have no storage
  const box = document.querySelector(".themes");
  const choose = (theme) => {
    if (theme === "auto") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", theme);
    for (const one of box.children) one.setAttribute("aria-pressed", String(one.dataset.themeChoice === theme));
    try { localStorage.setItem("lorascope-theme", theme); } catch { /* it is forgotten */ }
  };
  let kept = "auto";
  try { kept = localStorage.getItem("lorascope-theme") || "auto"; } catch { /* nothing was kept */ }
  box.hidden = false;
  choose(["light", "dark"].includes(kept) ? kept : "auto");
  box.addEventListener("click", (event) => {
    const choice = event.target.dataset.themeChoice;
    if (choice) choose(choice);
  });

  // a click on a table's head sorts it: up, down, as it was; what has no number stands last
  const collator = new Intl.Collator("en", { numeric: true });
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  const rank = (key) => (typeof key === "number" ? 0 : key === "-" || key === "" ? 2 : 1);
  const compare = (a, b, sign) => {
    if (rank(a) !== rank(b)) return rank(a) - rank(b);
    return sign * (typeof a === "number" ? a - b : collator.compare(a, b));
  };
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], given = [...body.rows];
    heads.forEach((head, column) => {
      head.setAttribute("aria-sort", "none");
      head.firstElementChild.addEventListener("click", () => {
        const order = next[head.getAttribute("aria-sort")], sign = order === "descending" ? -1 : 1;
        for (const one of heads) one.setAttribute("aria-sort", one === head ? order : "none");
        const rows = [...given];
        if (order !== "none") rows.sort((a, b) => compare(keyOf(a, column), keyOf(b, column), sign));
        body.append(...rows);
      });
    });
  };

  // an arm that is switched off in one legend is off in all, and in all charts; two clicks leave it alone
  const arms = data("arms"), hidden = new Set(), drawn = new Map();
  const follow = () => {
    for (const one of document.querySelectorAll(".legend button")) {
      one.setAttribute("aria-pressed", String(!hidden.has(arms[one.dataset.arm])));
    }
    for (const view of drawn.values()) view?.signal("hidden", [...hidden]).runAsync();
  };
  const switched = (one) => {
    const arm = arms[one.dataset.arm];
    one.addEventListener("click", () => {
      if (!hidden.delete(arm)) hidden.add(arm);
      follow();
    });
    one.addEventListener("dblclick", () => {
      const alone = arms.every((other) => other === arm || hidden.has(other));
      hidden.clear();
      if (!alone) for (const other of arms) if (other !== arm) hidden.add(other);
      follow();
    });
  };

  const draw = async () => {
    const { config, specs } = data("charts");
    const options = {
      mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, config, logLevel: 1,  // errors alone
      tooltip: { theme: "page" },
    };
    for (const [place, view] of drawn) {
      if (place.isConnected) continue;
      view?.finalize();
      drawn.delete(place);
    }
    for (const place of document.querySelectorAll("[data-chart]")) {
      if (drawn.has(place) || !place.isConnected) continue;
      const spec = specs[place.dataset.chart];
      const { view } = await vegaEmbed(place, spec, options);
      drawn.set(place, spec.params ? view : null);
      if (spec.params && hidden.size) view.signal("hidden", [...hidden]).runAsync();
    }
    root.dataset.drawn = "true";
  };

  // once for the whole page, and again for each part that a served page replaces
  let drawing = Promise.resolve();
  const fill = (part) => {
    for (const table of part.querySelectorAll("table.sortable")) sortable(table);
    for (const one of part.querySelectorAll(".legend button")) switched(one);
    if (hidden.size) follow();
    drawing = drawing.then(draw);
  };
  fill(document);
  document.addEventListener("lorascope-part", (event) => fill(event.target));
})();
