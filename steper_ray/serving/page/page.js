/** The page: asks the server, shows each step as the server tells of it, and keeps what was answered. */
import { button, copied, count, element, plural } from "./elements.js";
import { asMarkdown } from "./markdown.js";
import { failure, LOST, streamed } from "./requests.js";
import { Result } from "./result.js";
import { clearEarlier, earlier, onEarlierChanged, remember, storedKey, storeKey } from "./storage.js";

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
const READY_EVERY_MS = 4000;
const [form, question, room, keyField, key, askButton, stopButton, compare, status, alertBox, shown, earlierList,
  clearButton] = ["form", "question", "room", "key-field", "key", "ask", "stop", "compare", "status", "alert",
  "result", "earlier", "clear"].map((id) => document.getElementById(id));

let served = null; // what /readyz says, once the server is ready
let running = null; // the AbortController of the question being answered
let current = null; // the earlier question that is shown
let filled = ""; // the question that was last asked or shown: it is no draft

// Asking

/** Ask and show what comes; returns the answer, raises a failure or what fetch raises. */
async function follow(asked, result, signal) {
  for await (const { name, data } of streamed("v1/answer", { question: asked, stream: true }, key.value, signal)) {
    if (name === "open") shown.replaceChildren(result.root);
    const news = EVENTS.includes(name) && result[name](data); // others are a later server's
    if (news) status.textContent = news;
    if (name === "answer") return data; // the server ends the stream itself
  }
  throw failure(LOST[1], { heading: LOST[0] });
}

/** Have the model answer without search, beside the answer; returns the text, and shows what goes wrong. */
async function followAlone(asked, alone, signal) {
  const body = { model: served.model, messages: [{ role: "user", content: asked }], stream: true };
  let [text, ended] = ["", ""];
  try {
    for await (const { data } of streamed("v1/chat/completions", body, key.value, signal)) {
      const choice = data.choices?.[0];
      text += choice?.delta?.content ?? "";
      ended = choice?.finish_reason ?? ended;
      alone.show(text || "…");
    }
    if (!ended) throw failure(LOST[1]);
    alone.end(text, ended === "length" ? "Cut off by the limit of tokens." : "");
    return text;
  } catch (error) {
    alone.end(text, error.name === "AbortError" ? "Stopped." : error.message);
    return "";
  }
}

async function ask(asked) {
  const result = new Result(asked);
  running = new AbortController();
  const { signal } = running;
  setRunning(true);
  setAddress(asked);
  alertBox.replaceChildren();
  listEarlier(null);
  status.textContent = "Asking…";
  try {
    const following = follow(asked, result, signal);
    const besides = compare.checked && served ? followAlone(asked, result.alone(), signal) : "";
    const [answer, alone] = await Promise.all([following, besides]);
    if (alone) status.textContent += `. The model alone: ${alone.slice(0, 200)}`;
    const entry = { question: asked, answer, alone };
    remember(entry);
    listEarlier(entry);
    result.tools.append(...toolsOf(entry));
  } catch (error) {
    const stopped = error.name === "AbortError";
    status.textContent = stopped ? "Stopped." : "";
    result.cut(stopped ? "You stopped this question." : "Something went wrong; see above.");
    if (!result.parts.size) shown.replaceChildren();
    if (!stopped) report(error, asked);
    running.abort(); // of streams that could not be read to their end
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
  const hadFocus = document.activeElement.matches("#ask, #stop, .alert *"); // which is about to go
  stopButton.hidden = !on;
  askButton.hidden = on;
  shown.setAttribute("aria-busy", String(on));
  earlierList.inert = on;
  if (hadFocus) (on ? stopButton : askButton).focus({ preventScroll: true });
}

// Earlier questions and links

const linkTo = (asked) => new URL(`#${new URLSearchParams({ q: asked })}`, location).href;

/** The address of the page is a link to what it shows; a fragment, which no server sees. */
function setAddress(asked) {
  filled = asked;
  history.replaceState(null, "", asked ? linkTo(asked) : location.pathname + location.search);
}

/** Write a question into the form, unless that has one which was not asked yet. */
function fill(asked) {
  if (question.value.trim() && question.value.trim() !== filled) return;
  question.value = asked;
  showRoom();
}

function listEarlier(shownNow) {
  current = shownNow;
  earlierList.replaceChildren(...earlier.map((entry) => {
    const show = () => {
      showAgain(entry);
      shown.querySelector("h2").focus();
    };
    return element("li", {}, button({ "aria-current": String(entry === current) }, show,
      element("span", {}, entry.question), element("span", { class: "quiet" }, entry.answer.answer)));
  }));
  clearButton.hidden = !earlier.length;
}

function showAgain(entry) {
  const result = new Result(entry.question);
  for (const step of entry.answer.steps) {
    if (step.query) result.search(step);
    result.passages(step);
    result.step(step);
  }
  result.answer(entry.answer);
  if (entry.alone) result.alone().end(entry.alone);
  result.tools.append(...toolsOf(entry));
  shown.replaceChildren(result.root);
  fill(entry.question);
  setAddress(entry.question);
  listEarlier(entry);
  alertBox.replaceChildren();
  status.textContent = "";
}

/** Fill in the question of a link. It is asked by its reader only: an answer costs, and links come from anywhere. */
function openLink() {
  const linked = new URLSearchParams(location.hash.slice(1)).get("q")?.trim();
  if (!linked || running) return;
  const answered = earlier.find((entry) => entry.question === linked);
  if (answered) {
    showAgain(answered);
    return;
  }
  fill(linked);
  if (question.value === linked) status.textContent = "The link filled in this question. Press Ask to have it answered.";
}

function toolsOf(entry) {
  const copies = (label, text, done) => button({ class: "plain" }, async () => {
    status.textContent = "";
    status.textContent = await copied(text) ? done : "The browser did not let this page copy.";
  }, label);
  return [copies("Copy as Markdown", asMarkdown(entry), "The answer is copied as Markdown."),
    copies("Copy link", linkTo(entry.question), "The link to the question is copied.")];
}

// The server

/** Learn what is served, and look again until it is ready. */
async function checkReady() {
  const line = document.getElementById("server");
  try {
    const ready = await (await fetch("readyz")).json();
    if (ready.status === "ready") {
      line.textContent = [`Model ${ready.model} ${ready.model_version.slice(0, 10)}`,
        `corpus ${ready.corpus_version.slice(0, 10)}`, ready.framework,
        `${plural(ready.passages_per_step, "passage")} a step`,
        `at most ${plural(ready.max_steps, "step")}`].join(" · ");
      question.maxLength = ready.max_question_chars;
      keyField.hidden &&= !ready.keys_required;
      compare.disabled = false;
      served = ready;
      return;
    }
    line.textContent = `The server is not ready: ${ready.missing.join(", ")} missing.`;
  } catch {
    line.textContent = "The server cannot be reached.";
  }
  setTimeout(checkReady, READY_EVERY_MS);
}

function showRoom() { // what is pasted beyond the limit the browser cuts off: say so
  const [used, most] = [question.value.length, question.maxLength];
  room.textContent = most > 0 && used >= 0.9 * most ? `${count(used)} of ${count(most)} characters` : "";
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
question.addEventListener("input", showRoom);
key.addEventListener("input", () => storeKey(key.value));
stopButton.addEventListener("click", () => running?.abort());
clearButton.addEventListener("click", () => {
  if (!window.confirm("Remove all earlier questions and their answers from this browser?")) return;
  clearEarlier();
  setAddress("");
  listEarlier(null);
  status.textContent = "The earlier questions are removed.";
  question.focus(); // the button is gone
});
window.addEventListener("hashchange", openLink);
onEarlierChanged(() => listEarlier(null));

key.value = storedKey();
listEarlier(null);
openLink();
checkReady();
