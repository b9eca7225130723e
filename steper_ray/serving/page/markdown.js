/** An answer as Markdown: the question, the answer, its steps with their passages' titles, and what answered. */
import { ABILITIES, doubtOf, versions } from "./result.js";
import { UNSUPPORTED } from "./words.js";

/** Text on one line in which nothing is Markdown or HTML. */
const plain = (text) => text.replace(/\s+/g, " ").trim().replace(/[\\`*_[\]<>#|~&$]/g, "\\$&")
  .replace(/^([-+=])/, "\\$1").replace(/^(\d+)([.)])/, "$1\\$2");

function stepLines({ step, ability, query, passages, rationale, unsupported }) {
  const titles = passages.map(({ id, title }) => `- ${plain(title || "Untitled")} (${plain(id)})`);
  return [
    `### Step ${step}: ${plain(ABILITIES[ability] ?? ability)}`,
    query && `Searched for: ${plain(query)}`,
    titles.length && `Passages:\n\n${titles.join("\n")}`,
    plain(rationale),
    unsupported?.length && `*${UNSUPPORTED}: ${plain(unsupported.join(", "))}.*`,
  ];
}

/** The Markdown of an entry of the earlier questions. */
export function asMarkdown({ question, answer, alone }) {
  return [
    `## ${plain(question)}`,
    `**Answer:** ${plain(answer.answer || "No answer.")}`,
    answer.supported === false && `*${plain(doubtOf(answer))}*`,
    alone && `**The model alone:** ${plain(alone)}`,
    ...answer.steps.flatMap(stepLines),
    plain(versions(answer)),
  ].filter(Boolean).join("\n\n") + "\n";
}
