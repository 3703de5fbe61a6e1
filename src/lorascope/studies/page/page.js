(() => {
  "use strict";
  const root = document.documentElement;

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

  // what a mark says, at once and on touch too; without this script the browser shows it after a while
  const tip = document.getElementById("tip");
  const said = new WeakMap();
  for (const title of document.querySelectorAll("svg.chart title")) {
    said.set(title.parentNode, title.textContent);
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  const show = (event) => {
    const words = said.get(event.target);
    tip.hidden = !words;
    if (!words) return;
    tip.textContent = words;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(Math.max(event.clientX - width / 2, 6), root.clientWidth - width - 6);
    const above = event.clientY - height - 12;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 6 ? above : event.clientY + 16}px`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // an arm of a legend stands out in its section while it is pointed at; a click holds it
  const shine = (section, arm) => {
    for (const one of section.querySelectorAll(".chart [data-arm]")) one.classList.toggle("dim", arm !== null && one.dataset.arm !== arm);
  };
  for (const legend of document.querySelectorAll(".legend")) {
    const section = legend.closest("section");
    let held = null;
    const settle = () => shine(section, held);
    for (const button of legend.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("pointerenter", () => shine(section, button.dataset.arm));
      button.addEventListener("pointerleave", settle);
      button.addEventListener("focus", () => { if (button.matches(":focus-visible")) shine(section, button.dataset.arm); });
      button.addEventListener("blur", settle);
      button.addEventListener("click", () => {
        held = held === button.dataset.arm ? null : button.dataset.arm;
        for (const one of legend.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one.dataset.arm === held));
        settle();
      });
    }
  }
})();
