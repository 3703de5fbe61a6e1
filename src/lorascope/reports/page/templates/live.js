// Follows the study: asks for the newest version, and replaces what has changed. It stands before the page's own script,
// so that it sees the content as the server sent it.
(() => {
  "use strict";
  const root = document.documentElement, main = document.querySelector("main"), line = document.getElementById("live");
  const EVERY = 2000, SLOWLY = 30000;
  const inside = (text) => new DOMParser().parseFromString(text, "text/html");
  const specsOf = (page) => JSON.parse(page.getElementById("charts").textContent).specs;
  let version = root.dataset.version, specs = specsOf(document);

  // the token is in a cookie now: out of the address bar, and of what is copied from it
  const address = new URL(location.href);
  if (address.searchParams.has("token")) {
    address.searchParams.delete("token");
    history.replaceState(history.state, "", address);
  }

  // a section as it was sent, with its charts; what is the same stays as it is
  const told = (section, of) => {
    const places = [...section.querySelectorAll("[data-chart]")];
    return section.outerHTML + JSON.stringify(places.map((one) => of[one.dataset.chart]));
  };
  const known = new Map([...main.children].map((one) => [one.id, told(one, specs)]));

  // what the reader has opened, sorted, moved and reached goes over to the new section
  const REACHED = "a, button, summary, [tabindex]";
  const named = (within, label) => [...within.querySelectorAll(".scroll")].find((one) => one.ariaLabel === label);
  const carry = (old, made, fresh) => {
    const opened = [...old.querySelectorAll("details[open] > summary")].map((one) => one.textContent.replace(/\d+/g, ""));
    for (const one of made.querySelectorAll("details > summary")) {
      one.parentNode.open = opened.includes(one.textContent.replace(/\d+/g, ""));
    }
    for (const place of made.querySelectorAll("[data-chart]")) {
      const label = fresh[place.dataset.chart].description;
      const before = [...old.querySelectorAll("[data-chart]")].find((one) => specs[one.dataset.chart]?.description === label);
      const drawing = before?.querySelector("svg");
      if (drawing) place.append(drawing.cloneNode(true));  // until the new one is drawn
    }
  };
  const restore = (was, made, reached) => {
    for (const before of was) {
      const now = named(made, before.label);
      if (!now) continue;
      now.scrollLeft = before.left;
      const head = before.order && [...now.querySelectorAll("th")].find((one) => one.textContent.trim() === before.head);
      for (let clicks = before.order === "descending" ? 2 : 1; head && clicks; clicks -= 1) head.firstElementChild.click();
    }
    if (reached >= 0) made.querySelectorAll(REACHED)[reached]?.focus({ preventScroll: true });
  };
  const looked = (section) => [...section.querySelectorAll(".scroll")].map((one) => {
    const head = one.querySelector("[aria-sort=ascending], [aria-sort=descending]");
    return { label: one.ariaLabel, left: one.scrollLeft, head: head?.textContent.trim(), order: head?.ariaSort };
  });

  // replaces the sections that differ; what is in view stays where it is
  const replace = (made, fresh, all) => {
    const view = [...main.children].find((one) => one.getBoundingClientRect().bottom > 60);
    const seen = view && { id: view.id, top: view.getBoundingClientRect().top };
    let before = null;
    for (const one of made) {
      const text = told(one, fresh), old = document.getElementById(one.id);
      const same = old && known.get(one.id) === text, node = same ? old : document.adoptNode(one);
      if (!same) {
        const was = old && looked(old), reached = old ? [...old.querySelectorAll(REACHED)].indexOf(document.activeElement) : -1;
        if (old) {
          carry(old, node, fresh);
          old.replaceWith(node);
        } else if (before) before.after(node);
        else main.prepend(node);
        known.set(one.id, text);
        node.dispatchEvent(new Event("lorascope-part", { bubbles: true }));
        if (old) restore(was, node, reached);
      }
      before = node;
    }
    const ids = new Set([...made].map((one) => one.id));
    for (const one of all ? [...main.children] : []) if (!ids.has(one.id)) one.remove();
    const now = seen && scrollY > 0 && document.getElementById(seen.id);
    if (now) scrollBy({ top: now.getBoundingClientRect().top - seen.top, behavior: "instant" });
  };

  const renew = (page) => {
    const fresh = specsOf(page);
    document.title = page.title;
    for (const one of ["h1", ".about", "nav ul"]) document.querySelector(one).replaceWith(page.querySelector(one));
    for (const id of ["study-data", "charts"]) {
      document.getElementById(id).textContent = page.getElementById(id).textContent;
    }
    replace([...page.querySelectorAll("main > section")], fresh, true);
    specs = fresh;
    version = root.dataset.version = page.documentElement.dataset.version;
  };

  const say = (text, ended) => {
    if (line.textContent !== text) line.textContent = text;
    line.classList.toggle("ended", Boolean(ended));
  };
  const get = async (place) => {
    const answer = await fetch(place, { cache: "no-store", credentials: "same-origin" });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer;
  };
  const ask = async () => {
    if (document.hidden || !getSelection().isCollapsed) return EVERY;  // nobody looks, or somebody copies
    const state = await (await get(root.dataset.state)).json();
    if (state.version !== version) {
      const here = new URL(location.href);
      here.searchParams.set("part", "content");
      renew(inside(await (await get(here)).text()));
    }
    if (state.now) replace([inside(state.now).body.firstElementChild], specs, false);
    say(state.trouble || state.line, state.trouble);
    return state.finished ? SLOWLY : EVERY;
  };
  let failed = 0;
  const follow = async () => {
    let wait = EVERY;
    try {
      wait = await ask();
      failed = 0;
    } catch (error) {
      failed += 1;
      say("The server has ended, or cannot be reached: this is what it told last.", true);
      if (failed > 3 || error.message === "403") return;  // its messages would fill the console
      wait = EVERY * 2 ** failed;
    }
    setTimeout(follow, wait);
  };
  setTimeout(follow, EVERY / 2);
})();
