"use strict";
// Filters only: without this script every row is shown.
const form = document.getElementById("filters");
const rows = [...document.querySelectorAll("#list > li")];
const names = ["outcome", "category", "cause"];

function filter() {
  const wanted = names.map((name) => document.getElementById(name).value);
  let shown = 0;
  for (const row of rows) {
    const fits = names.every((name, i) => !wanted[i] || row.dataset[name] === wanted[i]);
    row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = `${shown} of ${rows.length} rows shown`;
}

form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
