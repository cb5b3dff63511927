"use strict";
// Filters only: without this script every row is shown, and a number of the confusion leads to the first of its rows.
const form = document.getElementById("filters");
const rows = [...document.querySelectorAll("#list > li")];
const names = ["outcome", "category", "cause"];
const every = document.getElementById("every");
let cell = "";

function filter() {
  const wanted = names.map((name) => document.getElementById(name).value);
  let shown = 0;
  for (const row of rows) {
    const fits = names.every((name, i) => !wanted[i] || row.dataset[name] === wanted[i])
      && (!cell || JSON.parse(row.dataset.cells).includes(cell));
    row.hidden = !fits;
    shown += fits;
  }
  every.hidden = !cell;
  document.getElementById("shown").textContent = `${shown} of ${rows.length} rows shown` + (cell ? `, ${cell}` : "");
}

function choose(value) {
  cell = value;
  for (const name of names) document.getElementById(name).value = "";
  filter();
  document.getElementById("rows").focus();
}

for (const link of document.querySelectorAll("a[data-cell]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    choose(link.dataset.cell);
  });
}
every.addEventListener("click", () => choose(""));
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
