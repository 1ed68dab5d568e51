// Workers of the browser and of Node: questions to them that have answers.
import { inNode, nodeModule } from "./files.js";
import { ModelError } from "./ports.js";

/** Answers messages of the thread that started this one: `answer(message, tell)` is [value, what is handed over with it]. */
export async function serve(answer) {
  const port = inNode ? (await nodeModule("worker_threads")).parentPort : globalThis;
  listen(port, "message", async ({ id, ...message }) => {
    try {
      const [value, handed = []] = await answer(message, (news) => port.postMessage({ id, news }));
      port.postMessage({ id, value }, handed);
    } catch (error) {
      port.postMessage({ id, error: error.message, ours: error instanceof ModelError });
    }
  });
}

/** A worker that answers. */
export class Partner {
  #worker;
  #waiting = new Map();
  #next = 0;
  #failed;

  constructor(worker) {
    this.#worker = worker;
    listen(worker, "message", (message) => this.#hear(message));
    listen(worker, "error", (error) => this.#fail(error.message));
    listen(worker, "messageerror", () => this.#fail("it sent what cannot be read"));
    worker.unref?.(); // an idle one must not keep Node from ending
  }

  /** What it answers; on the way there it may have news. */
  ask(message, hear) {
    if (this.#failed) return Promise.reject(this.#failed);
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#worker.postMessage({ ...message, id });
      this.#waiting.set(id, { resolve, reject, hear });
      this.#worker.ref?.();
    });
  }

  end(reason = new ModelError("the model was disposed of; load it again")) {
    this.#worker.terminate();
    this.#failed ??= reason;
    for (const { reject } of this.#waiting.values()) reject(this.#failed);
    this.#waiting.clear();
  }

  #hear({ id, news, error, ours, value }) {
    const { resolve, reject, hear } = this.#waiting.get(id) ?? {};
    if (news !== undefined) return hear?.(news);
    this.#waiting.delete(id);
    if (!this.#waiting.size) this.#worker.unref?.();
    if (error === undefined) resolve?.(value);
    else reject?.(ours ? new ModelError(error) : new Error(error));
  }

  #fail(why) {
    this.end(new ModelError(`a worker of the model failed (${why ?? "its script did not load"}): publish the whole folder`));
  }
}

function listen(target, kind, hear) {
  if (target.addEventListener) target.addEventListener(kind, (event) => hear(kind === "message" ? event.data : event));
  else target.on(kind, hear);
}
