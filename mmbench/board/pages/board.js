"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (where, what) => Array.from(where.querySelectorAll(what));
  const valueOf = (row, column) => {
    const cell = row.children[column];
    const text = cell.dataset.sort ?? cell.textContent.trim().replace(/,/g, "").replace(/%$/, "");
    const number = parseFloat(text);
    return text !== "" && Number.isFinite(number) && /^[-+.\d]/.test(text) ? number : text.toLowerCase();
  };
  const isMissing = (value) => value === "" || value === "–" || value === "—";
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  const sort = (table, header, column) => {
    const isNumber = header.classList.contains("n");
    const first = isNumber && !/^(Rank|Mean rank)/.test(header.textContent) ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    all(table, "th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    const body = table.tBodies[0];
    const keyed = all(body, "tr").map((row, place) => ({ row, place, value: valueOf(row, column) }));
    const sign = order === "ascending" ? 1 : -1;
    keyed.sort((a, b) => isMissing(a.value) - isMissing(b.value) || sign * compare(a.value, b.value) || a.place - b.place);
    keyed.forEach(({ row }) => { row.classList.remove("begins"); body.append(row); });
  };
  all(document, "table.sortable").forEach((table) => {
    all(table, "thead th").forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, header, column));
    });
  });
  const filter = document.getElementById("filter");
  const status = document.getElementById("shown");
  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    all(document, "table.filtered").forEach((table) => {
      const rows = all(table.tBodies[0], "tr");
      rows.forEach((row) => { const text = row.textContent.toLowerCase(); row.hidden = !words.every((word) => text.includes(word)); });
      const left = rows.filter((row) => !row.hidden).length;
      if (!table.closest("section").hidden) status.textContent = words.length ? `${left} of ${rows.length} rows` : "";
    });
  };
  const choices = all(document, "input[name=rule]");
  const choose = () => {
    const chosen = choices.find((choice) => choice.checked);
    choices.forEach((choice) => { document.getElementById(`rule-${choice.value}`).hidden = choice !== chosen; });
    narrow();
  };
  choices.forEach((choice) => choice.addEventListener("change", choose));
  if (filter) { filter.addEventListener("input", narrow); choose(); }
})();
