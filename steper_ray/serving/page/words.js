/** Which words of a sentence come from which passage, and which from nowhere. */
import { element } from "./elements.js";

const LETTER = "\\p{L}\\p{N}\\p{M}";
const WORD = new RegExp(`[${LETTER}]+(?:['’][${LETTER}]+)*`, "gu");
const SENTENCE_END = /[.!?:;]["”’)]*\s/;
const STOP_WORDS = new Set(`a an and are as at be been both but by did do does for from had has have he her his
  how i if in into is it its no not of on or she so than that the their them then there these they this those to
  was we were what when where which who whom whose why will with would you answer`.split(/\s+/));

/** The words of a text; `low`: in lower case, `named`: capitalised or numeric, `first`: of a sentence. */
export function wordsOf(text) {
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
export function borrowed(sentence, fields, from = 0, to = sentence.length) {
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
export function marked(text, run) {
  const runs = new RegExp(`(?<![${LETTER}])(${run.join(`[^${LETTER}]+`)})(?![${LETTER}])`, "giu");
  return text.split(runs).map((part, i) => (i % 2 ? element("mark", {}, part) : part));
}

export const UNSUPPORTED = "In no passage, earlier step or the question";

/** Nodes of a text in which what is unsupported is marked. */
export function doubted(text, unsupported) {
  const names = unsupported.map((name) => name.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"))
    .sort((a, b) => b.length - a.length);
  if (!names.length) return [text];
  const pattern = new RegExp(`(?<![${LETTER}])(${names.join("|")})(?![${LETTER}])`, "giu");
  return text.normalize().split(pattern).map((part, i) => (i % 2
    ? element("mark", { class: "unsupported", title: UNSUPPORTED }, part) : part));
}
