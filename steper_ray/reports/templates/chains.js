// The chains of an evaluation: search, filters, and two models side by side.
"use strict";

const SHOWN = 100; // questions that are listed at a time

const section = document.getElementById("browse");
const index = JSON.parse(document.getElementById("chain-index").textContent);
const models = index.models;
const main = Math.max(models.indexOf("student"), 0);
const teacher = models.indexOf("teacher");
const another = models.findIndex((_, m) => m !== main);
const beside = teacher >= 0 && teacher !== main ? teacher : Math.max(another, 0);
const packs = new Map(); // number → promise of what is in it
const lower = index.questions.map((text, n) => `${text}\n${index.ids[n]}`.toLowerCase());
let found = [];
let shown = SHOWN;
let opened = -1;
let sides = [main, beside];

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function field(label, options, name) {
  const select = element("select", "", { name });
  options.forEach(([value, text]) => select.append(element("option", text, { value })));
  const whole = element("label", `${label} `);
  whole.append(select);
  return whole;
}

function distinct(values) {
  const known = [...new Set(values.filter((value) => value !== null))];
  return known.sort((a, b) => (a < b ? -1 : 1)).map((value) => [String(value), String(value)]);
}

function verdicts() {
  const options = [["", "any"]];
  models.forEach((name, n) => options.push([`${n}:1`, `${name} right`], [`${n}:0`, `${name} wrong`]));
  if (main !== beside) {
    options.push([`${main}:1 ${beside}:0`, `${models[main]} right, ${models[beside]} wrong`]);
    options.push([`${main}:0 ${beside}:1`, `${models[main]} wrong, ${models[beside]} right`]);
  }
  return options;
}

const form = element("form", "", { role: "search", class: "filters" });
const search = element("input", "", { type: "search", name: "text", autocomplete: "off" });
const searched = element("label", "Question or id ");
searched.append(search);
const any = ["", "any"];
const fields = [field("Verdict", verdicts(), "verdict")];
if (distinct(index.hops).length > 1) fields.push(field("Hops", [any, ...distinct(index.hops)], "hops"));
if (distinct(index.types).length > 1) fields.push(field("Type", [any, ...distinct(index.types)], "type"));
const ends = distinct(index.reasons.map((reasons) => reasons[main]));
if (ends.length > 1) {
  fields.push(field(`End of ${models[main]}`, [any, ...ends.map(([value]) => [value, index.ends[value]])], "reason"));
}
fields.push(field("Order", [["", "by id"], ["steps", "most steps first"], ["seconds", "slowest first"]], "order"));
form.append(searched, ...fields);
const status = element("p", "", { role: "status", class: "quiet" });
const list = element("ol", "", { class: "found" });
const more = element("button", "Show more", { type: "button" });
const panel = element("div", "", { class: "opened", tabindex: "-1" });
section.append(form, status, list, more, panel);
section.hidden = false;

function matches(n, given) {
  if (given.text && !lower[n].includes(given.text.toLowerCase())) return false;
  for (const wanted of given.verdict ? given.verdict.split(" ") : []) {
    const [model, right] = wanted.split(":");
    if (index.right[n][model] !== Number(right)) return false;
  }
  if (given.hops && String(index.hops[n]) !== given.hops) return false;
  if (given.type && index.types[n] !== given.type) return false;
  return !given.reason || index.reasons[n][main] === given.reason;
}

function filter() {
  const given = Object.fromEntries(new FormData(form));
  found = index.ids.map((_, n) => n).filter((n) => matches(n, given));
  const by = index[given.order];
  if (by) found.sort((a, b) => by[b][main] - by[a][main] || a - b);
  shown = SHOWN;
  draw();
}

function draw() {
  const rows = found.slice(0, shown).map((n) => {
    const link = element("a", index.questions[n], { href: address(n) });
    if (n === opened) link.setAttribute("aria-current", "true");
    const row = element("li");
    row.append(link);
    models.forEach((name, m) => {
      const right = index.right[n][m];
      row.append(" ", element("span", `${right ? "✓" : "✗"} ${name}`, { class: right ? "right" : "wrong" }));
    });
    return row;
  });
  list.replaceChildren(...rows);
  more.hidden = found.length <= shown;
  const count = found.length.toLocaleString("en");
  status.textContent = `${count} of ${index.ids.length.toLocaleString("en")} questions`;
}

function address(n) {
  return `#chain=${encodeURIComponent(index.ids[n])}`;
}

function unpack(number) {
  if (!packs.has(number)) {
    const text = document.getElementById(`chains-${number}`).textContent;
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    packs.set(number, new Response(stream).json());
  }
  return packs.get(number);
}

// The words of a text, and whether each is in the longest common subsequence with another's.
function compared(text, other) {
  const [a, b] = [words(text), words(other)];
  if (a.length * b.length > 250000) return a.map((word) => [word, true]);
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < a.length; i++) {
    while (j < b.length && a[i] !== b[j] && length[i][j + 1] > length[i + 1][j]) j++;
    const common = j < b.length && a[i] === b[j];
    pairs.push([a[i], common]);
    if (common) j++;
  }
  return pairs;
}

function words(text) {
  return text.split(/\s+/).filter((word) => word);
}

function sentence(text, other) {
  const made = element("p", "", { class: "rationale" });
  if (!text) made.textContent = "(nothing written)";
  else if (other === undefined) made.textContent = text;
  else {
    for (const [word, common] of compared(text, other)) {
      made.append(common ? word : element("mark", word), " ");
    }
  }
  return made;
}

function column(details, side, otherSide, n) {
  const chain = details.chains[side];
  const made = element("section", "", { "aria-label": models[side] });
  made.append(element("h4", models[side]));
  const right = index.right[n][side];
  const verdict = `${right ? "Right" : "Wrong"}, ${index.ends[index.reasons[n][side]]}`;
  made.append(element("p", verdict, { class: `verdict ${right ? "right" : "wrong"}` }));
  if (chain.error !== null) made.append(element("p", chain.error));
  const steps = element("ol", "", { class: "steps" });
  chain.steps.forEach(([query, passages, rationale], number) => {
    const step = element("li");
    step.append(element("p", query ? `Searched with “${query}”` : "No search", { class: "search" }));
    if (passages.length) {
      const titles = passages.map((p) => details.passages[p][0] || "(no title)").join(", ");
      const fold = element("details");
      fold.append(element("summary", `${passages.length} new: ${titles}`));
      passages.forEach((p) => fold.append(element("p", details.passages[p][1], { class: "passage" })));
      step.append(fold);
    }
    const other = side === otherSide ? undefined : details.chains[otherSide].steps[number];
    step.append(sentence(rationale, other && other[2]));
    steps.append(step);
  });
  made.append(steps, element("p", `Answer: ${chain.answer || "(empty)"}`));
  return made;
}

async function open(n, focus) {
  opened = n;
  draw();
  let details;
  try {
    details = (await unpack(Math.floor(n / index.packed)))[n % index.packed];
  } catch (error) {
    panel.replaceChildren(element("p", `This browser cannot unpack the chains: ${error}`));
    return;
  }
  if (opened !== n) return; // another one was opened meanwhile
  const choice = element("div", "", { class: "filters" });
  sides.forEach((side, at) => {
    const made = field(at ? "beside" : "Chain of", models.map((name, m) => [String(m), name]), `side-${at}`);
    const select = made.querySelector("select");
    select.value = String(side);
    select.addEventListener("change", () => {
      sides[at] = Number(select.value);
      open(n, false).then(() => panel.querySelector(`[name=side-${at}]`).focus());
    });
    choice.append(made);
  });
  const pair = element("div", "", { class: "pair" });
  pair.append(column(details, sides[0], sides[1], n));
  if (sides[0] !== sides[1]) pair.append(column(details, sides[1], sides[0], n));
  const heading = element("h3", index.questions[n]);
  const gold = element("p", `Gold: ${details.gold.join(" · ")}`, { class: "quiet" });
  panel.replaceChildren(heading, gold, ...(models.length > 1 ? [choice] : []), pair);
  if (focus) {
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "start" });
  }
}

function follow(focus) {
  const wanted = /^#chain=(.*)$/.exec(location.hash);
  if (!wanted) return;
  const n = index.ids.indexOf(decodeURIComponent(wanted[1]));
  if (n >= 0) open(n, focus);
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", () => {
  shown += SHOWN;
  draw();
});
window.addEventListener("hashchange", () => follow(true));
filter();
follow(true);
