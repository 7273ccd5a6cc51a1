/** The server's state as it goes: the last minutes at once, then a figure a second; listened to while a page shows it. */

import { ApiError, stream } from "../lib/api";
import type { State } from "./types";

const KEPT = 300;
const AGAIN_MS = 2000;

class Live {
  states = $state.raw<State[]>([]);
  now = $derived(this.states.at(-1) ?? null);
  /** Refused for good: no such door, no right. */
  refused = $state("");

  /** Until what it gives is called. */
  listen(): () => void {
    const ended = new AbortController();
    void this.#listen(ended.signal);
    return () => ended.abort();
  }

  async #listen(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        for await (const { event, data } of stream("/api/page/live", { signal })) {
          if (event === "history") this.states = (JSON.parse(data) as { states: State[] }).states.slice(-KEPT);
          else if (event === "state") this.states = [...this.states.slice(1 - KEPT), JSON.parse(data) as State];
          this.refused = "";
        }
      } catch (error) {
        if (error instanceof ApiError && !error.isOffline && error.status < 500) {
          this.refused = error.message;
          return;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }
}

export const live = new Live();
