// The page: who is there, what was said, and one running stream for each message without an answer.
// Text enters the page as text (textContent), never as markup.

const at = (id) => document.getElementById(id);
const copyOf = (id) => at(id).content.firstElementChild.cloneNode(true);
const RETRY_MS = 1000;

class Refused extends Error {} // the app said no, in words
class Lost extends Error {} // the app cannot be reached

function lost() {
  throw new Lost("The connection was lost.");
}

async function ask(path, { body, ...options } = {}) {
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  options.headers = { ...(body && { "Content-Type": "application/json" }), ...options.headers };
  const response = await fetch(path, options).catch(lost);
  if (response.status === 401) showDoor();
  if (response.ok) return response;
  if (response.status >= 502 && response.status <= 504) lost(); // a proxy says so while the app restarts
  const { detail } = await response.json().catch(() => ({}));
  throw new Refused(typeof detail === "string" ? detail : `That did not work (${response.status}).`);
}

async function* eventsOf(response) {
  const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await pieces.read().catch(lost);
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").find((line) => line.startsWith("data: ")); // else a sign of life
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

// --- one message ---------------------------------------------------------------------------------

const WORDS = {
  CANCELLED: "Stopped.",
  TEXT_HANDLER_ERROR: "Something failed on the way to an answer. Nothing of it was kept.",
  TURN_TIMEOUT: "The answer took too long. Nothing of it was kept.",
  ATTEMPTS_EXHAUSTED: "The answer was interrupted too often. Nothing of it was kept.",
  NO_WORKER: "Nobody was free to answer.",
  QUEUE_FULL: "Too many messages wait already.",
};

class Turn {
  constructor(id, text) {
    this.id = id;
    this.text = text;
    this.items = new Map(); // what the answer is made of, by item or call
    this.element = copyOf("turn");
    this.part(".asked").textContent = text;
    this.part(".stop").onclick = () => this.stop();
    this.part(".again").onclick = () => this.run({ isSent: false });
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  // Send the message unless the app has it, and show its events to the last, over as many connections as it takes.
  async run({ isSent }) {
    let cursor = null;
    this.begin();
    for (;;) {
      try {
        const response = isSent ? await this.follow(cursor) : await this.send();
        for await (const event of eventsOf(response)) {
          isSent = true;
          cursor = event.seq;
          keepInView(() => this.show(event));
          if (event.type === "complete") return;
        }
      } catch (error) {
        if (error instanceof Refused) return this.end("failed", error.message);
        if (!(error instanceof Lost)) throw error;
      }
      this.say("The connection was lost. Trying again …");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  send() {
    return ask("chat", { body: { message_id: this.id, text: this.text } });
  }

  follow(cursor) {
    return ask(`chat/${this.id}`, { headers: cursor === null ? {} : { "Last-Event-ID": cursor } });
  }

  async stop() {
    this.say("Stopping …");
    await ask(`chat/${this.id}/stop`, { method: "POST" }).catch((error) => this.say(error.message));
  }

  show({ type, ...event }) {
    const content = event[type];
    switch (type) {
      case "accepted":
        this.say("");
        this.part(".stop").hidden = false;
        break;
      case "restarted": // what came before counts no more
        if (this.items.size) this.say("The answer was interrupted and begins again.");
        this.clear();
        break;
      case "text_delta":
        this.paragraph(content.item_id).append(content.text);
        break;
      case "message":
        this.paragraph(content.id).textContent = content.content.map((part) => part.text).join("");
        break;
      case "function_call":
        this.call(content);
        break;
      case "function_call_output":
        this.output(content);
        break;
      case "complete":
        this.complete(content);
    }
  }

  paragraph(itemId) {
    if (!this.items.has(itemId)) {
      this.items.set(itemId, this.part(".answer").appendChild(document.createElement("p")));
      this.say("");
    }
    return this.items.get(itemId);
  }

  call({ call_id, name, arguments: given }) {
    const element = copyOf("call");
    element.querySelector("summary").textContent = `${name} …`;
    element.querySelector(".arguments").textContent = given;
    this.items.set(call_id, this.part(".answer").appendChild(element));
  }

  output({ call_id, name, output, is_error }) {
    const element = this.items.get(call_id);
    element.classList.toggle("failed", Boolean(is_error));
    element.querySelector("summary").textContent = is_error ? `${name} failed` : name;
    element.querySelector(".output").textContent = output;
  }

  complete({ error }) {
    if (!error) return this.end("committed", "");
    this.clear(); // a turn is all or nothing
    if (error.code === "CANCELLED") return this.end("cancelled", WORDS.CANCELLED);
    this.end("failed", WORDS[error.code] ?? error.message, error.retryable);
  }

  // Show a message of the transcript.
  recall({ status, answer, error }) {
    if (status === "queued" || status === "running") return this.run({ isSent: true });
    if (error || status === "cancelled") return this.complete({ error: error ?? { code: "CANCELLED" } });
    this.end("committed", answer ? "" : "The answer is no longer kept.");
    if (answer) this.paragraph("answer").textContent = answer.text;
  }

  begin() {
    running.add(this);
    this.clear();
    this.say("Sending …");
    this.element.ariaBusy = "true"; // a screen reader waits for the whole
    delete this.element.dataset.end;
    this.part(".again").hidden = true;
  }

  end(how, words, canRepeat = false) {
    running.delete(this);
    this.say(words);
    this.element.ariaBusy = "false";
    this.element.dataset.end = how;
    this.part(".again").hidden = !canRepeat;
    if (this.part(".stop") === document.activeElement) at("text").focus();
    this.part(".stop").hidden = true;
  }

  clear() {
    this.items.clear();
    this.part(".answer").replaceChildren();
  }

  say(words) {
    this.part(".state span").textContent = words;
  }
}

// --- the conversation ----------------------------------------------------------------------------

const running = new Set();
let olderCursor = null;

// A reader at the end stays there as the answer grows; one who scrolled up is left in peace.
function keepInView(change) {
  const page = document.documentElement;
  const isAtEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 80;
  change();
  if (isAtEnd) page.scrollTop = page.scrollHeight;
}

function say() {
  const text = at("text").value.trim();
  at("text").value = ""; // a doubled click finds nothing left to send
  if (!text) return;
  // Made before anything is sent: however often the message is sent from here on, it runs once.
  const turn = new Turn(crypto.randomUUID(), text);
  at("empty").hidden = true;
  at("log").append(turn.element);
  turn.element.scrollIntoView({ block: "end" });
  document.documentElement.scrollTop = document.documentElement.scrollHeight;
  turn.run({ isSent: false });
}

async function recall(before) {
  const response = await ask(before ? `chat?before=${encodeURIComponent(before)}` : "chat");
  const { messages, next_cursor } = await response.json();
  const turns = messages.map((row) => [row, new Turn(row.message_id, row.text)]);
  at("log").prepend(...turns.map(([, turn]) => turn.element));
  for (const [row, turn] of turns) turn.recall(row);
  olderCursor = next_cursor;
  at("older").hidden = next_cursor === null;
}

at("composer").onsubmit = (event) => {
  event.preventDefault();
  say();
};
at("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    say();
  }
};
document.onkeydown = (event) => {
  if (event.key === "Escape") [...running].at(-1)?.stop();
};
at("older").onclick = async () => {
  const fromEnd = document.documentElement.scrollHeight - document.documentElement.scrollTop;
  await recall(olderCursor);
  document.documentElement.scrollTop = document.documentElement.scrollHeight - fromEnd;
};

// --- who is there --------------------------------------------------------------------------------

function showDoor() {
  at("chat").hidden = at("whoami").hidden = true;
  at("door").hidden = false;
}

async function showChat({ name }) {
  at("door").hidden = true;
  at("chat").hidden = at("whoami").hidden = false;
  at("name").textContent = name;
  at("log").replaceChildren();
  await recall();
  at("empty").hidden = at("log").childElementCount > 0;
  document.documentElement.scrollTop = document.documentElement.scrollHeight;
  at("text").focus();
}

at("login").onsubmit = async (event) => {
  event.preventDefault();
  const form = event.target;
  const trouble = form.querySelector(".trouble");
  trouble.hidden = true;
  try {
    const response = await ask(event.submitter.value, { body: Object.fromEntries(new FormData(form)) });
    form.reset();
    await showChat(await response.json());
  } catch (error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
  }
};
at("logout").onclick = async () => {
  await ask("logout", { method: "POST" });
  location.reload(); // nothing of this user stays in the page
};

ask("me")
  .then((response) => response.json())
  .then(showChat, (error) => error instanceof Refused || Promise.reject(error));
