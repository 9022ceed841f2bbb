// Long tables of the book (ulelib.book.tables.long): a search field and sortable heads.
// Without this script they are plain tables in a box. It asks the network for nothing.
(() => {
  "use strict";
  const MISSING = new Set(["", "-", "—"]);
  const NUMBER = /^[^\w+\-−]*([+\-−]?\d+(?:\.\d+)?)/; // after a mark, if any: "✓ 12.9 ± 0.5 (5)"
  const words = new Intl.Collator("en", { numeric: true });

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  const text = (row, column) => row.cells[column].textContent.trim();

  const number = (string) => {
    const found = NUMBER.exec(string);
    return found ? Number(found[1].replace("−", "-")) : NaN;
  };

  /** Rows in a column's order: numbers if all are, else words. Missing ones are always last. */
  const ordered = (rows, column, direction) => {
    const known = rows.filter((row) => !MISSING.has(text(row, column)));
    const missing = rows.filter((row) => MISSING.has(text(row, column)));
    const numeric = known.every((row) => !Number.isNaN(number(text(row, column))));
    const compare = (one, other) => {
      const [a, b] = [text(one, column), text(other, column)];
      return direction * ((numeric && number(a) - number(b)) || words.compare(a, b));
    };
    return [...known.sort(compare), ...missing];
  };

  /** Turn the heads into buttons: up, down, and back to the table's own order. */
  const makeSortable = (table, rows) => {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = make("button", { type: "button", class: "long-table-sort" });
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" };
        const order = next[head.getAttribute("aria-sort")];
        heads.forEach((one) => one.hasAttribute("aria-sort") && one.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", order);
        const direction = order === "ascending" ? 1 : -1;
        body.append(...(order === "none" ? rows : ordered([...rows], column, direction)));
      });
    });
  };

  /** Add a field that hides the rows which lack one of its words, and says how many are left. */
  const makeSearchable = (tools, rows) => {
    const contents = rows.map((row) => row.textContent.toLowerCase());
    const field = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
    const count = make("span", { role: "status", class: "long-table-count" });
    const search = () => {
      const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows.forEach((row, place) => {
        row.hidden = !wanted.every((word) => contents[place].includes(word));
      });
      const left = rows.filter((row) => !row.hidden).length;
      count.textContent = wanted.length ? `${left} of ${rows.length} rows` : `${rows.length} rows`;
    };
    field.addEventListener("input", search);
    search();
    tools.prepend(make("label", {}, "Search ", field), count);
  };

  const enhance = (box) => {
    const table = box.querySelector("table");
    if (!table || !table.tHead || !table.tBodies.length || box.dataset.enhanced) return;
    box.dataset.enhanced = "true";
    const rows = [...table.tBodies[0].rows];
    makeSortable(table, rows);
    makeSearchable(box.querySelector(".long-table-tools"), rows);
  };

  const start = () => document.querySelectorAll(".long-table").forEach(enhance);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
