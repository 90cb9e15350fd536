// The prompt box: one question over the public API, streamed, with its speed.

import { askForKey } from "./key.js";
import { byId, element, patchChildren, setText } from "./dom.js";
import { plural, rate } from "./format.js";
import { HttpError, readEvents, request } from "./stream.js";

let running = null;

const NO_MODEL = { id: "", state: "ready" };

const choiceText = ({ id, state }) => (id === "" ? "none loaded" : state === "ready" ? id : `${id} (${state})`);

export function showModelChoices(models) {
  const select = byId("prompt-model");
  patchChildren(select, models.length ? models : [NO_MODEL], {
    key: (model) => model.id,
    create: (model) => element("option", { value: model.id }),
    update: (option, model) => setText(option, choiceText(model)),
  });
  select.disabled = models.length === 0;
  byId("prompt-send").disabled = models.length === 0 || running !== null;
}

export function startPromptBox() {
  const form = byId("prompt-form");
  form.addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    if (running === null && byId("prompt-text").value.trim() !== "" && byId("prompt-model").value !== "") ask();
  });
  byId("prompt-text").addEventListener("keydown", (pressed) => {
    if (pressed.key !== "Enter" || pressed.shiftKey || pressed.isComposing) return;
    pressed.preventDefault();
    form.requestSubmit();
  });
  byId("prompt-stop").addEventListener("click", () => running?.abort());
}

async function ask() {
  running = new AbortController();
  setRunning(true);
  const answer = new Answer();
  try {
    await answer.stream(byId("prompt-model").value, byId("prompt-text").value, running.signal);
    answer.finish("");
  } catch (error) {
    if (error.name === "AbortError") answer.finish("stopped");
    else await fail(answer, error);
  } finally {
    running = null;
    setRunning(false);
  }
}

async function fail(answer, error) {
  answer.finish("broke off");
  setText(byId("prompt-failure"), error instanceof TypeError ? "The daemon does not answer." : error.message);
  if (error instanceof HttpError && error.status === 401) await askForKey();
}

function setRunning(isRunning) {
  byId("prompt-send").disabled = isRunning;
  byId("prompt-stop").hidden = !isRunning;
  byId("answer").setAttribute("aria-busy", String(isRunning));
}

/** An answer on its way; tokens are timed as they arrive here. */
class Answer {
  constructor() {
    this.sentAtMs = performance.now();
    this.firstAtMs = null;
    this.lastAtMs = null;
    this.numTokens = 0;
    this.text = document.createTextNode("");
    byId("answer").replaceChildren(this.text);
    byId("answer").hidden = false;
    setText(byId("prompt-failure"), "");
    setText(byId("answer-stats"), "");
  }

  async stream(model, prompt, signal) {
    const messages = [{ role: "user", content: prompt }];
    // a page is for trying: at the API's default of 1, small models ramble
    const body = JSON.stringify({ model, messages, temperature: 0.2, stream: true, return_token_ids: true });
    const response = await request("/v1/chat/completions", { method: "POST", body, signal });
    for await (const { data } of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      for (const choice of chunk.choices) this.take(choice);
    }
    throw new Error("The connection ended in the middle of the answer.");
  }

  take(choice) {
    const tokens = choice.token_ids?.length ?? 0;
    if (tokens > 0) {
      this.lastAtMs = performance.now();
      this.firstAtMs ??= this.lastAtMs;
      this.numTokens += tokens;
    }
    if (choice.delta.content) this.append(choice.delta.content);
  }

  append(text) {
    const box = byId("answer");
    const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
    this.text.appendData(text);
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  }

  finish(word) {
    const facts = word ? [word] : [];
    if (this.firstAtMs !== null) {
      const decodeS = (this.lastAtMs - this.firstAtMs) / 1000;
      facts.push(plural(this.numTokens, "token"));
      if (decodeS > 0) facts.push(rate((this.numTokens - 1) / decodeS));
      facts.push(`first token after ${((this.firstAtMs - this.sentAtMs) / 1000).toFixed(2)} s`);
    }
    byId("answer").hidden = this.text.data === "";
    setText(byId("answer-stats"), facts.join(" · "));
  }
}
