/** Requests to the server that this page is from, and what may go wrong with them. */
export const LOST = ["The connection was lost", "The stream ended before the answer came."];

/** Why no answer came. status: HTTP's, if any; after: seconds to wait before a retry, if the server said. */
export const failure = (message, about = {}) => Object.assign(new Error(message), { name: "Failure" }, about);

/** What fetch and its body raise, as a failure, unless the question was stopped. */
const unlessStopped = (heading, message) => (error) => {
  throw error.name === "AbortError" ? error : failure(message, { heading });
};

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `It said ${response.status} ${response.statusText}.`;
  const after = Number(response.headers.get("Retry-After") || NaN); // a date, which it may be too, is not read
  return failure(message, { status: response.status, after });
}

/** POST a body and return the events of the reply; raises a failure, or AbortError if it was stopped. */
export async function* streamed(path, body, key, signal) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal })
    .catch(unlessStopped("The server cannot be reached", "No connection could be made."));
  if (!response.ok) throw await refusal(response);
  yield { name: "open", data: {} };
  for await (const event of serverEvents(response.body)) {
    if (event.data.error) throw failure(event.data.error.message);
    yield event;
  }
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
      const data = field("data");
      if (data && data !== "[DONE]") yield { name: field("event"), data: JSON.parse(data) };
    }
  }
}
