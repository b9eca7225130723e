/** A question on the page: its answer, its steps with their passages, and what it cost. */
import { button, count, duration, element, plural } from "./elements.js";
import { borrowed, doubted, marked, UNSUPPORTED, wordsOf } from "./words.js";

export const ABILITIES = { init: "Initialization", exp: "Expansion", agg: "Aggregation" };
const STOPPED = {
  answered: "The student answered of its own accord.",
  forced: "The steps ran out, so the student was asked for its answer.",
  no_query: "A step left nothing to search for, so the student was asked for its answer.",
  nothing_new: "Searches brought nothing new, so the student was asked for its answer.",
};

/** Why an answer that is not supported is not. */
export function doubtOf(answer) {
  const unknown = (answer.unknown_names ?? []).join(", ");
  return unknown ? `Not supported: no passage that was found has ${unknown}.`
    : "Not supported: words of its steps stand in no passage.";
}

/** What gave an answer. */
export const versions = ({ model, model_version: version, corpus_version: corpus }) =>
  `Model ${model}${version ? ` ${version}` : ""}, corpus ${corpus}`;

const note = (text, name = "quiet") => element("p", { class: name }, text);

/** Lets the keyboard scroll a text that is longer than its box. */
const boxes = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    if (target.scrollHeight > target.clientHeight) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});

/** What is shown of a question. A method for each event shows it and returns what to announce, if anything. */
export class Result {
  constructor(asked) {
    this.asked = asked;
    this.parts = new Map(); // of each step
    this.titles = []; // of each passage {words, passage}, as are the texts
    this.texts = [];
    this.text = element("p", { class: "answer-text" }, "…");
    this.reason = element("p", { class: "quiet" }, "The student is at work.");
    this.panel = element("section", { class: "answer waiting", "aria-labelledby": "answer-heading" },
      element("h3", { id: "answer-heading" }, "Answer"), this.text, this.reason);
    this.answers = element("div", { class: "answers" }, this.panel);
    this.tools = element("div", { class: "tools" });
    this.root = element("article", { "aria-labelledby": "asked" },
      element("h2", { id: "asked", tabindex: "-1" }, asked), this.answers, this.tools);
  }

  /** A panel beside the answer for what the model writes without search: {show(text), end(text, note)}. */
  alone() {
    const text = element("p", { class: "alone-text" }, "…");
    const about = element("p", { class: "quiet" }, "Nothing is searched: this is what the model remembers.");
    const panel = element("section", { class: "answer alone waiting", "aria-labelledby": "alone-heading" },
      element("h3", { id: "alone-heading" }, "The model alone"), text, about);
    this.answers.append(panel);
    boxes.observe(text);
    const show = (written) => { text.textContent = written; };
    return {
      show,
      end(written, why = "") {
        show(written || "No answer.");
        panel.classList.remove("waiting");
        if (why) panel.append(note(why, "doubt"));
      },
    };
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
      part.cards.replaceWith(note("No passage that was not found before."));
    }
    part.sentence.classList.add("writing");
    return `Step ${step}: ${plural(passages.length, "new passage")}, writing…`;
  }

  card({ id, title: named, text, score }) {
    const title = named || "Untitled";
    const heading = element("h4", {}, title);
    const body = element("p", { class: "text" }, text);
    boxes.observe(body);
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
    const say = (text) => part.body.append(note(text));
    if (data.unsupported?.length) say(`${UNSUPPORTED}: ${data.unsupported.join(", ")}.`);
    if (data.finish_reason === "length") say("Cut off by the limit of tokens of a step.");
    if (data.dropped_passages) {
      say(`${plural(data.dropped_passages, "passage")} did not fit into the prompt.`);
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
    this.panel.classList.remove("waiting");
    const doubts = data.steps.flatMap((step) => step.unsupported ?? []);
    this.text.replaceChildren(...doubted(data.answer || "No answer.", doubts));
    if (data.supported === false) {
      this.panel.classList.add("unsupported-answer");
      this.panel.append(note(doubtOf(data), "doubt"));
    }
    this.reason.textContent = STOPPED[data.stop_reason] ?? data.stop_reason;
    this.panel.append(note([duration(data.seconds), plural(data.steps.length, "step"),
      `${count(data.prompt_tokens)} prompt tokens (${count(data.cached_tokens)} from the cache)`,
      `${count(data.generated_tokens)} written`].join(" · "), "figures"));
    for (const [name, { trained, served }] of Object.entries(data.overrides ?? {})) {
      this.panel.append(note(`Served otherwise than trained: ${name} is ${served}, was ${trained}.`));
    }
    this.root.append(timings(data.steps), note(versions(data)));
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
