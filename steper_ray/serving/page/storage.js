/**
 * What the browser keeps: questions with their answers until they are cleared, an API key until the tab is closed.
 * Servers of one origin, each under a prefix of its own, keep theirs apart.
 */
const HERE = `steper.${new URL(".", location).pathname}.`;
const EARLIER = `${HERE}earlier`;
const MOST_ENTRIES = 50;
const MOST_CHARACTERS = 2_000_000; // of some five million that an origin has

/** Whether it could be kept: storage may be full or switched off. */
function store(storage, name, value) {
  try {
    window[storage].setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function stored(storage, name) {
  try {
    return JSON.parse(window[storage].getItem(name));
  } catch {
    return null; // storage is switched off, or holds something else
  }
}

export const storeKey = (key) => store("sessionStorage", `${HERE}key`, key);
export const storedKey = () => String(stored("sessionStorage", `${HERE}key`) ?? "");

/** Questions that were answered: [{question, answer event, what the model alone wrote}], newest first. */
export let earlier = readEarlier();

function readEarlier() {
  const kept = stored("localStorage", EARLIER);
  return Array.isArray(kept)
    ? kept.filter((entry) => typeof entry?.question === "string" && Array.isArray(entry.answer?.steps)) : [];
}

/** Keep an entry; the oldest give way. */
export function remember(entry) {
  earlier = [entry, ...earlier].slice(0, MOST_ENTRIES);
  const fits = (entries) => JSON.stringify(entries).length <= MOST_CHARACTERS
    && store("localStorage", EARLIER, entries);
  for (let kept = earlier.length; kept && !fits(earlier.slice(0, kept)); kept -= 1);
}

export function clearEarlier() {
  earlier = [];
  store("localStorage", EARLIER, earlier);
}

/** Call this when another tab has changed what is kept. */
export function onEarlierChanged(act) {
  window.addEventListener("storage", ({ key }) => {
    if (key !== EARLIER && key !== null) return; // null: all was cleared
    earlier = readEarlier();
    act();
  });
}
