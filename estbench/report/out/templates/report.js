
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
