/**
 * The page: asks /v1/answer and shows each step as the server tells of it, as text and never as HTML.
 * Questions answered in this tab, and an API key, are in sessionStorage and nowhere else.
 */
const ABILITIES = { init: "Initialization", exp: "Expansion", agg: "Aggregation" };
const STOPPED = {
  answered: "The student answered of its own accord.",
  forced: "The steps ran out, so the student was asked for its answer.",
  no_query: "A step left nothing to search for, so the student was asked for its answer.",
  nothing_new: "Searches brought nothing new, so the student was asked for its answer.",
};
/** What went wrong and what to do about it, by HTTP status. */
const ADVICE = {
  401: ["An API key is needed", "Enter a valid key above and ask again."],
  413: ["The question is too long", "Shorten it and ask again."],
  422: ["The question was not accepted", "Change it and ask again."],
  429: ["The server has too much to do", ""],
  503: ["The server is not ready", ""],
  504: ["The answer took too long", "Ask again, or ask something that needs fewer steps."],
};
const EVENTS = ["search", "passages", "token", "step", "answer"];
const MOST_EARLIER = 50;
const READY_EVERY_MS = 4000;
const [form, question, room, keyField, key, askButton, stopButton, status, alertBox, shown, earlierList] = [
  "form", "question", "room", "key-field", "key", "ask", "stop", "status", "alert", "result", "earlier",
].map((id) => document.getElementById(id));

/** An element with these attributes and children; strings become text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function button(attributes, act, ...children) {
  const made = element("button", { type: "button", ...attributes }, ...children);
  made.addEventListener("click", act);
  return made;
}

const count = (number) => Number(number ?? 0).toLocaleString("en");
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

function duration(seconds) {
  if (seconds < 0.1) return seconds < 0.001 ? "< 1 ms" : `${Math.round(seconds * 1000)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
}

/** The events of a response body: {name, data}. Comments are ignored, and an event that is cut short. */
async function* serverEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(unlessStopped(...LOST));
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split("\n").filter((line) => line.startsWith(`${name}:`))
        .map((line) => line.slice(name.length + 1).trim()).join("\n");
      if (field("data")) yield { name: field("event"), data: JSON.parse(field("data")) };
    }
  }
}

const LETTER = "\\p{L}\\p{N}\\p{M}";
const WORD = new RegExp(`[${LETTER}]+(?:['’][${LETTER}]+)*`, "gu");
const SENTENCE_END = /[.!?:;]["”’)]*\s/;
const STOP_WORDS = new Set(`a an and are as at be been both but by did do does for from had has have he her his
  how i if in into is it its no not of on or she so than that the their them then there these they this those to
  was we were what when where which who whom whose why will with would you answer`.split(/\s+/));

/** The words of a text; `low`: in lower case, `named`: capitalised or numeric, `first`: of a sentence. */
function wordsOf(text) {
  let end = 0;
  return [...text.matchAll(WORD)].map(({ 0: word, index: start }) => {
    const first = end === 0 || SENTENCE_END.test(text.slice(end, start));
    end = start + word.length;
    return { low: word.toLowerCase(), start, end, named: /^[\p{Lu}\p{N}]/u.test(word), first };
  });
}

/** How many words from sentence[from] on, before `to`, a field has from `at` on, less stop words at the end. */
function sharedLength(sentence, from, to, field, at) {
  let length = 0;
  while (from + length < to && sentence[from + length].low === field[at + length]?.low
    && (length === 0 || !sentence[from + length].first)) length += 1;
  while (length && STOP_WORDS.has(sentence[from + length - 1].low)) length -= 1;
  const named = sentence.slice(from, from + length).some((word, i) => word.named
    && !STOP_WORDS.has(word.low) && (!word.first || field[at + i].named));
  return named || length >= 3 ? length : 0;
}

/**
 * The words of a sentence that come from a passage: the longest run, then what is left on both sides of it.
 * A run holds a capitalised or numeric word, or three words. fields: [{words, passage}], the first wins ties.
 */
function borrowed(sentence, fields, from = 0, to = sentence.length) {
  let best = { length: 0 };
  for (let i = from; i < to; i += 1) {
    if (STOP_WORDS.has(sentence[i].low)) continue;
    for (const { words, passage } of fields) {
      for (let at = 0; at < words.length; at += 1) {
        if (words[at].low !== sentence[i].low) continue;
        const length = sharedLength(sentence, i, to, words, at);
        if (length > best.length) best = { start: i, length, passage };
      }
    }
  }
  if (!best.length) return [];
  const end = best.start + best.length;
  return [...borrowed(sentence, fields, from, best.start), best, ...borrowed(sentence, fields, end, to)];
}

/** Nodes of a text in which every run of these words (in lower case) is marked. */
function marked(text, run) {
  const runs = new RegExp(`(?<![${LETTER}])(${run.join(`[^${LETTER}]+`)})(?![${LETTER}])`, "giu");
  return text.split(runs).map((part, i) => (i % 2 ? element("mark", {}, part) : part));
}

const UNSUPPORTED = "In no passage, earlier step or the question";

/** Nodes of a text in which what is unsupported is marked. */
function doubted(text, unsupported) {
  const names = unsupported.map((name) => name.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"))
    .sort((a, b) => b.length - a.length);
  if (!names.length) return [text];
  const pattern = new RegExp(`(?<![${LETTER}])(${names.join("|")})(?![${LETTER}])`, "giu");
  return text.normalize().split(pattern).map((part, i) => (i % 2
    ? element("mark", { class: "unsupported", title: UNSUPPORTED }, part) : part));
}

/** What is shown of a question. A method for each event shows it and returns what to announce, if anything. */
class Result {
  constructor(asked) {
    this.asked = asked;
    this.parts = new Map(); // of each step
    this.titles = []; // of each passage {words, passage}, as are the texts
    this.texts = [];
    this.text = element("p", { class: "answer-text" }, "…");
    this.reason = element("p", { class: "quiet" }, "The student is at work.");
    this.panel = element("section", { class: "answer waiting", "aria-labelledby": "answer-heading" },
      element("h3", { id: "answer-heading" }, "Answer"), this.text, this.reason);
    this.root = element("article", { "aria-labelledby": "asked" },
      element("h2", { id: "asked", tabindex: "-1" }, asked), this.panel);
  }

  part(number) {
    if (this.parts.has(number)) return this.parts.get(number);
    const id = `step-${number}`;
    const ability = element("span", { class: "ability pending" }, "In progress…");
    const query = element("p", { class: "query" });
    const cards = element("ul", { class: "passages", "aria-label": `Passages new in step ${number}` });
    const sentence = element("p", { class: "sentence" });
    const body = element("div", {}, query, cards, sentence);
    this.root.append(element("section", { class: "step", "aria-labelledby": id },
      element("h3", { id }, element("span", { class: "number" }, `Step ${number}`), " ", ability), body));
    return this.parts.set(number, { ability, query, cards, sentence, body }).get(number);
  }

  search({ step, query }) {
    const words = query === this.asked ? "the question" : element("span", {}, `“${query}”`);
    this.part(step).query.replaceChildren("Searched for ", words);
    return `Step ${step}: searching…`;
  }

  passages({ step, passages }) {
    const part = this.part(step);
    const seen = new Set(this.titles.map(({ passage }) => passage.id));
    part.cards.append(...passages.filter(({ id }) => !seen.has(id)).map((passage) => this.card(passage)));
    if (!part.cards.childElementCount && part.query.textContent) {
      part.cards.replaceWith(element("p", { class: "quiet" }, "No passage that was not found before."));
    }
    part.sentence.classList.add("writing");
    return `Step ${step}: ${plural(passages.length, "new passage")}, writing…`;
  }

  card({ id, title: named, text, score }) {
    const title = named || "Untitled";
    const heading = element("h4", {}, title);
    const body = element("p", { class: "text" }, text);
    const about = typeof score === "number" ? `${id} · score ${score.toFixed(2)}` : id;
    const meta = element("div", { class: "meta" }, element("span", {}, about));
    const name = `passage-${this.titles.length + 1}`;
    const card = element("li", { class: "passage", id: name, tabindex: "-1" }, heading, body, meta);
    const passage = { id, title, text, heading, body, meta, card };
    this.titles.push({ words: wordsOf(title), passage });
    this.texts.push({ words: wordsOf(text), passage });
    return card;
  }

  token({ step, text }) {
    const { sentence } = this.part(step);
    sentence.classList.add("writing");
    if (!sentence.firstChild) sentence.append("");
    sentence.firstChild.data += text;
  }

  step(data) {
    const part = this.part(data.step);
    part.ability.textContent = ABILITIES[data.ability] ?? data.ability;
    part.ability.classList.remove("pending");
    part.sentence.classList.remove("writing");
    part.sentence.replaceChildren(...this.linked(data.rationale, data.unsupported));
    const note = (text) => part.body.append(element("p", { class: "quiet" }, text));
    if (data.unsupported?.length) note(`${UNSUPPORTED}: ${data.unsupported.join(", ")}.`);
    if (data.finish_reason === "length") note("Cut off by the limit of tokens of a step.");
    if (data.dropped_passages) {
      note(`${plural(data.dropped_passages, "passage")} did not fit into the prompt.`);
    }
    return `Step ${data.step}, ${part.ability.textContent}, is written.`;
  }

  /** Nodes of a sentence whose borrowed words link to their passages; what is in none of them is marked. */
  linked(sentence, unsupported = []) {
    const words = wordsOf(sentence);
    const nodes = [];
    let end = 0;
    for (const { start, length, passage } of borrowed(words, [...this.titles, ...this.texts])) {
      const run = words.slice(start, start + length);
      const text = sentence.slice(run[0].start, run.at(-1).end);
      const link = element("a", {
        href: `#${passage.card.id}`, title: passage.title, "aria-label": `${text}, in passage ${passage.title}`,
      }, text);
      link.addEventListener("click", (event) => {
        event.preventDefault(); // no entry in the browser's history for each look at a passage
        this.visit(passage, run.map(({ low }) => low), link);
      });
      nodes.push(...doubted(sentence.slice(end, run[0].start), unsupported), link);
      end = run.at(-1).end;
    }
    return [...nodes, ...doubted(sentence.slice(end), unsupported)];
  }

  /** Move to a passage and mark these words in it. */
  visit(passage, run, link) {
    this.leave();
    passage.heading.replaceChildren(...marked(passage.title, run));
    passage.body.replaceChildren(...marked(passage.text, run));
    const back = () => { this.leave(); link.focus(); };
    passage.meta.append(button({ class: "back", "aria-label": "Back to the sentence" }, back, "Back"));
    passage.card.classList.add("visited");
    this.visited = passage;
    passage.card.focus({ preventScroll: true });
    (passage.card.querySelector("mark") ?? passage.card).scrollIntoView({ block: "nearest" });
  }

  leave() {
    if (!this.visited) return;
    const { card, heading, body, title, text } = this.visited;
    [heading.textContent, body.textContent] = [title, text];
    card.classList.remove("visited");
    card.querySelector(".back").remove();
    this.visited = null;
  }

  answer(data) {
    const note = (text, name = "quiet") => element("p", { class: name }, text);
    this.panel.classList.remove("waiting");
    const doubts = data.steps.flatMap((step) => step.unsupported ?? []);
    this.text.replaceChildren(...doubted(data.answer || "No answer.", doubts));
    if (data.supported === false) {
      this.panel.classList.add("unsupported-answer");
      const unknown = (data.unknown_names ?? []).join(", ");
      this.panel.append(note(unknown ? `Not supported: no passage that was found has ${unknown}.`
        : "Not supported: words of its steps stand in no passage.", "doubt"));
    }
    this.reason.textContent = STOPPED[data.stop_reason] ?? data.stop_reason;
    this.panel.append(note([duration(data.seconds), plural(data.steps.length, "step"),
      `${count(data.prompt_tokens)} prompt tokens (${count(data.cached_tokens)} from the cache)`,
      `${count(data.generated_tokens)} written`].join(" · "), "figures"));
    for (const [name, { trained, served }] of Object.entries(data.overrides ?? {})) {
      this.panel.append(note(`Served otherwise than trained: ${name} is ${served}, was ${trained}.`));
    }
    this.root.append(timings(data.steps), note(`Model ${data.model}, corpus ${data.corpus_version}`));
    return `Answer: ${this.text.textContent}`;
  }

  /** Say on every unfinished part that no more will come. */
  cut(why) {
    [this.text.textContent, this.reason.textContent] = ["No answer.", why];
    for (const { ability, sentence } of this.parts.values()) {
      sentence.classList.remove("writing");
      if (ability.classList.contains("pending")) ability.textContent = "Unfinished";
    }
  }
}

function timings(steps) {
  const row = (tag, ...cells) => element("tr", {}, ...cells.map((cell, i) => (tag === "th" || i === 0
    ? element("th", { scope: tag === "th" ? "col" : "row" }, cell) : element("td", {}, cell))));
  const rows = steps.map((step) => row("td", `${step.step} ${ABILITIES[step.ability] ?? step.ability}`,
    step.query ? duration(step.search_seconds) : "–", duration(step.generate_seconds),
    ...[step.prompt_tokens, step.cached_tokens, step.generated_tokens].map((n) => (n === null ? "–" : count(n))),
    typeof step.mean_logprob === "number" ? step.mean_logprob.toFixed(2) : "–"));
  const head = row("th", "Step", "Search", "Writing", "Prompt", "Cached", "Written", "Log-prob.");
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("section", { class: "timings" }, element("h3", { id: "timings" }, "Time and tokens by step"),
    element("div", { class: "wide", role: "group", tabindex: "0", "aria-labelledby": "timings" }, table));
}

function stored(name, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem(`steper.${name}`)) ?? otherwise;
  } catch {
    return otherwise; // storage is switched off, or holds something else
  }
}

/** Whether it could be kept: storage may be full or switched off. */
function store(name, value) {
  try {
    sessionStorage.setItem(`steper.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** [{question, answer event}], newest first. */
const earlier = stored("earlier", []);
let running = null; // the AbortController of the question being answered

function remember(asked, answer) {
  earlier.unshift({ question: asked, answer });
  earlier.length = Math.min(earlier.length, MOST_EARLIER);
  for (let kept = earlier.length; kept && !store("earlier", earlier.slice(0, kept)); kept -= 1);
  listEarlier(earlier[0]);
}

function listEarlier(current) {
  earlierList.replaceChildren(...earlier.map((entry) => {
    return element("li", {}, button({ "aria-current": String(entry === current) }, () => showAgain(entry),
      element("span", {}, entry.question), element("span", { class: "quiet" }, entry.answer.answer)));
  }));
}

function showAgain(entry) {
  const result = new Result(entry.question);
  for (const step of entry.answer.steps) {
    if (step.query) result.search(step);
    result.passages(step);
    result.step(step);
  }
  result.answer(entry.answer);
  shown.replaceChildren(result.root);
  listEarlier(entry);
  alertBox.replaceChildren();
  status.textContent = "";
  result.root.querySelector("h2").focus();
}

/** Why no answer came. status: HTTP's, if any; after: seconds to wait before a retry, if the server said. */
const failure = (message, about = {}) => Object.assign(new Error(message), { name: "Failure" }, about);

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `It said ${response.status} ${response.statusText}.`;
  const after = Number(response.headers.get("Retry-After") || NaN); // a date, which it may be too, is not read
  return failure(message, { status: response.status, after });
}

/** What fetch and its body raise, as a failure, unless the question was stopped. */
const unlessStopped = (heading, message) => (error) => {
  throw error.name === "AbortError" ? error : failure(message, { heading });
};
const LOST = ["The connection was lost", "The stream ended before the answer came."];

/** Ask and show what comes; returns at the answer, raises a failure or what fetch raises. */
async function follow(asked, result, signal) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  if (key.value) headers.Authorization = `Bearer ${key.value}`;
  const body = JSON.stringify({ question: asked, stream: true });
  const response = await fetch("v1/answer", { method: "POST", headers, body, signal })
    .catch(unlessStopped("The server cannot be reached", "No connection could be made."));
  if (!response.ok) throw await refusal(response);
  shown.replaceChildren(result.root);
  for await (const { name, data } of serverEvents(response.body)) {
    if (name === "error") throw failure(data.error.message);
    const news = EVENTS.includes(name) && result[name](data); // others are a later server's
    if (news) status.textContent = news;
    if (name === "answer") return remember(asked, data); // the server ends the stream itself
  }
  throw failure(LOST[1], { heading: LOST[0] });
}

async function ask(asked) {
  const result = new Result(asked);
  running = new AbortController();
  setRunning(true);
  alertBox.replaceChildren();
  listEarlier(null);
  status.textContent = "Asking…";
  try {
    await follow(asked, result, running.signal);
  } catch (error) {
    const stopped = error.name === "AbortError";
    status.textContent = stopped ? "Stopped." : "";
    result.cut(stopped ? "You stopped this question." : "Something went wrong; see above.");
    if (!result.parts.size) shown.replaceChildren();
    if (!stopped) report(error, asked);
    running.abort(); // of a stream that could not be read to its end
  } finally {
    running = null;
    setRunning(false);
  }
}

function report(error, asked) {
  const { message, heading, status: code, after } = error.name === "Failure" ? error
    : failure(String(error), { heading: "The server sent what this page cannot read" });
  const [usual, advice] = ADVICE[code] ?? ["The server could not answer", ""];
  const wait = after >= 0 ? plural(after, "second") : "a few seconds";
  const lines = [element("strong", {}, heading ?? usual), message,
    advice || `A retry makes sense in ${wait}.`];
  alertBox.replaceChildren(...lines.map((line) => element("p", {}, line)));
  if (![401, 413, 422].includes(code)) {
    alertBox.append(button({}, () => { if (!running) ask(asked); }, "Retry"));
  }
  keyField.hidden &&= code !== 401;
  if (code === 401) key.focus();
}

function setRunning(on) {
  const hadFocus = document.activeElement.matches(".actions *, .alert *"); // which is about to go
  stopButton.hidden = !on;
  askButton.hidden = on;
  shown.setAttribute("aria-busy", String(on));
  earlierList.inert = on;
  if (hadFocus) (on ? stopButton : askButton).focus({ preventScroll: true });
}

/** Learn what is served, and look again until it is ready. */
async function checkReady() {
  const line = document.getElementById("server");
  try {
    const ready = await (await fetch("readyz")).json();
    if (ready.status === "ready") {
      line.textContent = [`Model ${ready.model}`, `corpus ${ready.corpus_version.slice(0, 10)}`,
        ready.framework, `${plural(ready.passages_per_step, "passage")} a step`,
        `at most ${plural(ready.max_steps, "step")}`].join(" · ");
      question.maxLength = ready.max_question_chars;
      keyField.hidden &&= !ready.keys_required;
      return;
    }
    line.textContent = `The server is not ready: ${ready.missing.join(", ")} missing.`;
  } catch {
    line.textContent = "The server cannot be reached.";
  }
  setTimeout(checkReady, READY_EVERY_MS);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = question.value.trim();
  if (asked && !running) ask(asked);
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
question.addEventListener("input", () => { // what is pasted beyond the limit the browser cuts off: say so
  const [used, most] = [question.value.length, question.maxLength];
  room.textContent = most > 0 && used >= 0.9 * most ? `${count(used)} of ${count(most)} characters` : "";
});
key.addEventListener("input", () => store("key", key.value));
stopButton.addEventListener("click", () => running?.abort());

key.value = stored("key", "");
listEarlier(null);
checkReady();
