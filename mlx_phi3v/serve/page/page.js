"use strict";
const at = id => document.getElementById(id);
const made = (name, options = {}, ...children) => {
  const { data, ...rest } = options, element = Object.assign(document.createElement(name), rest);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
};
const percent = value => value === null ? "" : value > .9995 ? "99.9+ %" : `${(100 * value).toFixed(value < .1 ? 2 : 1)} %`;
const LACKING = { missing: "not in the answer", duplicate: "twice in the answer", malformed: "not a value of this field",
                  truncated: "cut off by the longest answer" };
let about = null, photo = null, results = [], asked = 0;

async function call(path, body) {
  const options = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  let response, value;
  try {
    response = await fetch(path, options);
    value = await response.json();
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!response.ok) throw new Error(value.error.message);
  return value;
}

function say(text, trouble = "") {
  at("state").textContent = text;
  at("trouble").textContent = trouble;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(`data:image/unknown;base64,${reader.result.slice(reader.result.indexOf(",") + 1)}`);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

async function read(file) {
  if (!file) return;
  const number = ++asked;
  at("shown").hidden = at("preview").hidden = true;
  if (about && file.size * 4 / 3 + 1000 > about.max_body) {
    return say("", `The file has ${(file.size / 1e6).toFixed(1)} MB, more than is taken. Scale the photo down.`);
  }
  say("Reading the photo…");
  document.body.classList.add("busy");
  try {
    const url = await dataUrl(file), found = await call("page/read", { photo: url });
    if (number !== asked) return;  // another photo came meanwhile
    photo = url;
    results = found.results;
    show(found);
    say(`Read in ${found.seconds.toFixed(1)} s.`);
    at("answers-title").focus();
  } catch (error) {
    if (number === asked) say("", error.message);
  } finally {
    if (number === asked) document.body.classList.remove("busy");
  }
}

function differs(name, value) {
  return results.some(result => result.fields.some(field => field.name === name && field.value !== value));
}

function show() {
  at("answers").replaceChildren(...results.map(answer));
  at("preview").src = results[0].crops.whole;
  at("preview").hidden = false;
  const seen = new Map(results.map(result => [JSON.stringify(result.crops.grid), result]));
  at("crops").replaceChildren(...[...seen.values()].map(crops));
  at("correct").hidden = true;
  at("shown").hidden = false;
}

function described(name) {
  return about.models.find(model => model.name === name);
}

function answer(result, index) {
  const model = described(result.model);
  const rows = model.fields.map(field => {
    const item = result.fields.find(one => one.name === field.name), value = item.value;
    const text = value === null ? made("em", { textContent: LACKING[item.status] || item.status }) : shown(value, field);
    const sure = made("span", { className: "sure", textContent: percent(item.probability) });
    const bar = made("meter", { min: 0, max: 1, value: item.probability ?? 0, ariaHidden: "true" });
    return made("div", { className: "field", data: { field: field.name } },
      made("dt", { textContent: field.label }), made("dd", {}, made("span", { className: "value" }, text),
        ...(differs(field.name, value) ? [made("span", { className: "differs", textContent: "differs" })] : []), sure, bar));
  });
  const tokens = made("p", { className: "tokens" }, ...result.tokens.map(([text, probability]) =>
    made("span", { className: probability < .5 ? "low" : probability < .9 ? "mid" : "" }, text,
      ...(probability < .9 ? [made("small", { textContent: ` ${percent(probability)}` })] : []))));
  const { photo: prepared, answer: answered } = result.seconds;
  const card = made("article", { className: `card side${index}` },
    made("h3", { textContent: result.model }),
    ...(result.fields.every(field => field.value === null) ? [made("p", { className: "free", textContent: result.text })] : []),
    made("dl", {}, ...rows),
    made("p", { className: "hint", textContent: `photo ${prepared.toFixed(2)} s, answer ${answered.toFixed(2)} s, ` +
      `${result.tokens.length} tokens, ${model.backend} in ${model.dtype}` }),
    made("details", {}, made("summary", { textContent: "The answer, token by token" }), tokens));
  const wrong = made("button", { type: "button", className: "wrong", textContent: "This is wrong" });
  wrong.addEventListener("click", () => correct(result));
  card.append(wrong);
  return card;
}

function shown(value, field) {
  if (typeof value !== "number") return value;
  return `${value.toFixed(2)}${field.currency ? ` ${field.currency}` : ""}`;
}

function crops(result) {
  const [rows, columns] = result.crops.grid, list = result.crops.crops;
  const grid = made("div", { className: "grid" });
  grid.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  grid.append(...list.map((url, i) => made("img", { src: url, alt: `crop ${i + 1} of ${list.length}` })));
  const whole = made("figure", {}, made("img", { src: result.crops.whole, alt: "The whole photo, in one crop" }),
    made("figcaption", { textContent: "the whole, 336 x 336" }));
  const parts = made("figure", {}, grid,
    made("figcaption", { textContent: `${rows} x ${columns} crops of 336 x 336, white where the photo ends` }));
  return made("div", { className: "seen" }, whole, ...(list.length ? [parts] : []));
}

function correct(result) {
  const model = described(result.model);
  at("correct").hidden = false;
  at("saved").textContent = "";
  if (!about.corrections) {
    at("form").hidden = true;
    at("saved").textContent = "Start the server with --corrections FOLDER to save corrected rows.";
    return at("correct").scrollIntoView();
  }
  at("form").hidden = false;
  at("form").dataset.model = result.model;
  at("inputs").replaceChildren(...model.fields.map(field => {
    const value = result.fields.find(one => one.name === field.name).value;
    const input = made("input", { name: field.name, value: value ?? "", maxLength: 1000, autocomplete: "off",
                                  inputMode: field.kind === "number" ? "decimal" : "text" });
    return made("label", {}, made("span", { textContent: field.label + (field.currency ? ` (${field.currency})` : "") }), input);
  }));
  at("inputs").querySelector("input").focus();
}

at("form").addEventListener("submit", async event => {
  event.preventDefault();
  const model = at("form").dataset.model, result = results.find(one => one.model === model);
  const fields = Object.fromEntries([...at("inputs").querySelectorAll("input")].map(input => [input.name, input.value]));
  try {
    const saved = await call("page/correct", { photo, model, fields, answer: result.text });
    at("saved").textContent = `Saved in ${saved.folder}: ${saved.rows} corrected rows.`;
    at("saved").className = "";
  } catch (error) {
    at("saved").textContent = error.message;
    at("saved").className = "bad";
  }
});

for (const [button, input] of [["choose", "file"], ["shoot", "camera"]]) {
  at(button).addEventListener("click", () => at(input).click());
  at(input).addEventListener("change", () => { read(at(input).files[0]); at(input).value = ""; });
}
addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) read(file); else say("", "That is no file. Save the photo first, then drop its file.");
});
addEventListener("paste", event => {
  const file = [...event.clipboardData.files][0];
  if (file) { event.preventDefault(); read(file); }
});

call("page/about").then(value => {
  about = value;
  at("served").textContent = value.models.map(model => model.name).join(" beside ") + ` on ${value.models[0].backend}`;
  at("most").textContent = `up to ${(value.max_body * .75 / 1e6).toFixed(0)} MB`;
}).catch(error => say("", error.message));
