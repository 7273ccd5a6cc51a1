/** Who we are to the server and whether it is there; one place that asks, and goes on asking while it is not. */

import { ApiError, get, onAnswer, post } from "./api";

export interface Session {
  signed_in: boolean;
  who?: string;
  scopes?: string[];
  owner?: boolean;
  loopback: boolean;
  keys_set: boolean;
  model?: string;
  is_demo?: boolean;
  version: string;
  command: string;
  max_images?: number;
  max_image_mb?: number;
  context_tokens?: number | null;
  status?: string;
}

const AGAIN_MS = 1500;
/** So often it is asked where nothing else asks, so that a page that only stands open says when the server is gone. */
const BEAT_MS = 20_000;

class SessionState {
  now = $state<Session | null>(null);
  /** No answer came the last time. */
  offline = $state(false);
  /** Counts the times it came back: what holds data loads it anew. */
  returned = $state(0);
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    onAnswer((error) => this.#heard(error));
    addEventListener("online", () => void this.load());
  }

  get isAdmin(): boolean {
    return this.now?.scopes?.includes("admin") ?? false;
  }

  get loading(): boolean {
    return this.now?.signed_in === true && this.now.status !== "healthy";
  }

  async load(): Promise<void> {
    clearTimeout(this.#timer);
    try {
      this.now = await get<Session>("/api/page/session");
      if (this.loading) this.#later();
      else this.#timer = setTimeout(() => void this.load(), BEAT_MS);
    } catch {
      this.#later();
    }
  }

  /** Throws ApiError: not a key of this server. */
  async signIn(key: string): Promise<void> {
    this.now = await post<Session>("/api/page/session", { key });
  }

  #heard(error: ApiError | null): void {
    if (error?.isOffline) {
      this.offline = true;
      this.#later();
      return;
    }
    if (this.offline) {
      this.offline = false;
      this.returned += 1;
      void this.load();
    }
    if (error?.status === 401 && this.now?.signed_in) this.now = { ...this.now, signed_in: false };
  }

  #later(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.load(), AGAIN_MS);
  }
}

export const session = new SessionState();
