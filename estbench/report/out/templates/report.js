
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Hiding estimators: marks and labels in figures, rows in tables.
  const bar = document.getElementById("choose");
  if (bar) {
    const boxes = all("input[type=checkbox]", bar);
    const marks = new Map(boxes.map((box) => [box.value, []]));
    for (const mark of all("[data-estimator]")) {
      marks.get(mark.dataset.estimator)?.push(mark);
      if (mark instanceof SVGElement) {
        const title = document.createElementNS("http://www.w3.org/2000/svg", "title"); // a tooltip
        title.textContent = mark.dataset.estimator;
        mark.prepend(title);
      }
    }
    const said = document.getElementById("shown");
    const tell = () => {
      const hidden = boxes.filter((box) => !box.checked).map((box) => box.value);
      const shown = boxes.filter((box) => box.checked).map((box) => box.value);
      bar.classList.toggle("some", hidden.length > 0);
      let text = `All ${boxes.length} estimators are shown.`;
      if (shown.length === 0) {
        text = "No estimator is shown.";
      } else if (hidden.length > 0 && hidden.length <= shown.length) {
        text = `${shown.length} of ${boxes.length} estimators are shown; hidden: ${hidden.join(", ")}.`;
      } else if (hidden.length > 0) {
        text = `${shown.length} of ${boxes.length} estimators are shown: ${shown.join(", ")}.`;
      }
      said.textContent = text;
    };
    const apply = (box) => {
      for (const mark of marks.get(box.value)) mark.classList.toggle("off", !box.checked);
    };
    const choose = { all: () => true, none: () => false, references: (box) => "reference" in box.dataset };
    bar.addEventListener("change", (event) => {
      apply(event.target);
      tell();
    });
    for (const button of all("button[data-choose]", bar)) {
      button.addEventListener("click", () => {
        for (const box of boxes) {
          box.checked = choose[button.dataset.choose](box);
          apply(box);
        }
        tell();
      });
    }
    for (const box of boxes) apply(box); // a browser may keep the boxes of an earlier visit
    tell();
    bar.hidden = false;
  }

  // Sorting tables: up, down, and back to the order they came in. What is unknown stays last.
  const order = new Intl.Collator("en", { numeric: true });
  const key = (row, place) => {
    const cell = row.cells[place];
    const text = cell.textContent.trim();
    return { number: "value" in cell.dataset ? Number(cell.dataset.value) : NaN, text };
  };
  const unknown = (entry) => Number.isNaN(entry.number) && (entry.text === "" || entry.text === "–");
  const compare = (a, b) =>
    Number.isNaN(a.number) || Number.isNaN(b.number) ? order.compare(a.text, b.text) : a.number - b.number;
  const told = document.getElementById("sorted");
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const first = [...body.rows];
    const heads = all("thead th", table);
    heads.forEach((head, place) => {
      const name = head.textContent;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "" }[head.getAttribute("aria-sort")] ?? "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        let rows = first;
        if (next) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          const keyed = first.map((row) => [key(row, place), row]);
          keyed.sort(([a], [b]) => unknown(a) - unknown(b) || sign * compare(a, b));
          rows = keyed.map(([, row]) => row);
        }
        body.append(...rows);
        told.textContent = next ? `Sorted by ${name}, ${next}.` : "In the order of the report.";
      });
    });
  }

  // Exploring: ratios of noise to any estimator, at any snapshot, from the logs of every seed.
  const held = document.getElementById("explorer");
  if (held) {
    const data = JSON.parse(held.textContent);
    const fields = ["task", "cost", "snapshot", "reference"];
    const pick = Object.fromEntries(fields.map((name) => [name, document.getElementById(`x-${name}`)]));
    const plot = document.getElementById("x-plot");
    const about = document.getElementById("x-said");
    const NS = "http://www.w3.org/2000/svg";
    const fill = (select, options, wanted) => {
      select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
      if (options.some(([value]) => value === wanted)) select.value = wanted;
    };
    const wishes = () => {
      const wished = new URLSearchParams(location.hash.replace(/^#explore[?]?/, ""));
      return location.hash.startsWith("#explore") ? wished : new URLSearchParams();
    };
    const chosen = () => data.tasks.find((entry) => entry.task === pick.task.value);
    const refill = (wished) => {
      const own = chosen();
      const costs = Object.entries(data.costs).filter(([key]) => key !== "second" || own.seconds.some((s) => s !== null));
      fill(pick.cost, costs, wished.get("per") ?? pick.cost.value ?? "evaluation");
      fill(pick.snapshot, own.snapshots.map((text, place) => [String(place), text]), wished.get("at") ?? "0");
      const names = own.estimators.map(([name, mark]) => [name, name + mark]);
      fill(pick.reference, names, wished.get("to") ?? (pick.reference.value || data.reference));
    };
    const short = (x) => (x === 0 || !Number.isFinite(x) ? String(x) : String(Number(x.toPrecision(2))));
    const interval = (values) => {
      const known = values.filter((v) => v !== null);
      const n = known.length;
      const mean = known.reduce((a, b) => a + b, 0) / n;
      if (n < 2) return { n, value: Math.exp(mean) };
      const error = Math.sqrt(known.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1) / n);
      const half = error * data.quantiles[n - 2];
      return { n, value: Math.exp(mean), low: Math.exp(mean - half), high: Math.exp(mean + half) };
    };
    const rows = () => {
      const own = chosen();
      const second = pick.cost.value === "second";
      const place = Number(pick.snapshot.value);
      const logs = own.logs[second ? "sequence" : pick.cost.value][place];
      const at = own.estimators.findIndex(([name]) => name === pick.reference.value);
      const gap = (i) => (second ? own.seconds[i] - own.seconds[at] : 0);
      return own.estimators
        .map(([name, mark], i) => {
          if (second && (own.seconds[i] === null || own.seconds[at] === null)) return null;
          const values = logs[i].map((x, s) => (x === null || logs[at][s] === null ? null : x - logs[at][s] + gap(i)));
          const heavy = own.heavy[place][i] || own.heavy[place][at];
          return { name, label: name + mark, reference: i === at, heavy, ...interval(values) };
        })
        .filter((row) => row !== null && row.n > 0)
        .sort((a, b) => a.value - b.value);
    };
    const tell = (row) => {
      const range = row.low === undefined ? "" : ` (${short(row.low)} to ${short(row.high)})`;
      const tails = row.heavy ? " Heavy tails leave only a bound." : "";
      about.textContent = `${row.label}: ${short(row.value)} times the noise of ${pick.reference.value}${range}, n = ${row.n}.${tails}`;
    };
    const element = (name, attributes, text) => {
      const made = document.createElementNS(NS, name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text !== undefined) made.textContent = text;
      return made;
    };
    const draw = () => {
      const shown = rows();
      const [left, right, line] = [200, 700, 20];
      const ends = shown.flatMap((row) => [row.value, row.low ?? row.value, row.high ?? row.value]).filter((x) => x > 0);
      const low = Math.log(Math.min(1, ...ends)), high = Math.log(Math.max(1, ...ends));
      const x = (v) => left + ((Math.log(v) - low) / (high - low || 1)) * (right - left);
      const tall = line * (shown.length + 2);
      const svg = element("svg", { viewBox: `0 0 720 ${tall}`, role: "group", "aria-label": "Ratios of noise" });
      const decades = Array.from({ length: 24 }, (_, i) => i - 12);
      const inside = (steps) => decades.flatMap((p) => steps.map((s) => Number(`${s}e${p}`)))
        .filter((v) => Math.log(v) >= low - 1e-9 && Math.log(v) <= high + 1e-9);
      let ticks = inside([1, 2, 5]);
      if (ticks.length > 7) ticks = inside([1]);
      ticks = ticks.filter((_, i) => i % Math.ceil(ticks.length / 7) === 0);
      for (const tick of new Set([1, ...ticks])) {
        const at = x(tick);
        svg.append(element("line", { class: tick === 1 ? "one" : "axis", x1: at, x2: at, y1: 0, y2: tall - 24 }));
        svg.append(element("text", { x: at, y: tall - 8, "text-anchor": "middle" }, `${tick}×`));
      }
      shown.forEach((row, place) => {
        const y = line * (place + 0.6);
        const group = element("g", { class: row.reference ? "row reference" : "row", tabindex: "0", role: "img", "data-estimator": row.name });
        group.append(element("rect", { x: 0, y: y - line / 2, width: 720, height: line, fill: "transparent" }));
        group.append(element("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, row.label));
        if (row.low !== undefined) group.append(element("line", { x1: x(row.low), x2: x(row.high), y1: y, y2: y }));
        group.append(element("circle", { class: row.heavy ? "heavy" : "", cx: x(row.value), cy: y, r: 4 }));
        for (const kind of ["pointerenter", "focus"]) group.addEventListener(kind, () => tell(row));
        const range = row.low === undefined ? "" : `, ${short(row.low)} to ${short(row.high)}`;
        group.setAttribute("aria-label", `${row.label}: ${short(row.value)}${range}, n = ${row.n}`);
        svg.append(group);
      });
      plot.replaceChildren(svg);
      about.textContent = "Point at a row for its value, interval and n. Per second, the interval is that of the noise alone.";
    };
    const keep = () => {
      const wish = new URLSearchParams({ task: pick.task.value, per: pick.cost.value, at: pick.snapshot.value, to: pick.reference.value });
      history.replaceState(null, "", `#explore?${wish}`);
    };
    const restore = () => {
      const wished = wishes();
      fill(pick.task, data.tasks.map((entry) => [entry.task, entry.task]), wished.get("task") ?? data.tasks[0].task);
      refill(new URLSearchParams({ per: "evaluation", ...Object.fromEntries(wished) }));
      draw();
    };
    for (const name of fields) {
      pick[name].addEventListener("change", () => {
        if (name === "task") refill(new URLSearchParams());
        draw();
        keep();
      });
    }
    for (const part of all(".scripted")) part.hidden = false;
    restore();
    if (location.hash.startsWith("#explore")) document.getElementById("explore").scrollIntoView();
    addEventListener("hashchange", restore);
  }

  // A link to what is folded opens it.
  const unfold = () => {
    let part = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (; part; part = part.parentElement) if (part instanceof HTMLDetailsElement) part.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();

  // On paper nothing can be opened.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open]):not(.long)").filter((part) => !part.closest(".choose"));
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
  });
})();
