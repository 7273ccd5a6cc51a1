/** The server's public API as this page uses it: JSON there and back, errors as one class, streams as events. */

import { events, type ServerEvent } from "./sse";

/** `status` 0: no answer came at all. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = "ApiError";
  }

  get isOffline(): boolean {
    return this.status === 0;
  }
}

type Watcher = (error: ApiError | null) => void;
let watcher: Watcher = () => undefined;

/** `watch` is told of each answer: null for one that came, else how it failed. */
export function onAnswer(watch: Watcher): void {
  watcher = watch;
}

export interface Call {
  method?: "GET" | "POST" | "DELETE";
  body?: unknown;
  signal?: AbortSignal | undefined;
}

export async function call<T>(path: string, options: Call = {}): Promise<T> {
  const response = await send(path, options);
  return (await response.json()) as T;
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => call<T>(path, { signal });
export const post = <T>(path: string, body: unknown = {}, signal?: AbortSignal): Promise<T> =>
  call<T>(path, { method: "POST", body, signal });
export const remove = <T>(path: string): Promise<T> => call<T>(path, { method: "DELETE" });

/** The events of a stream, as they come. Throws ApiError: refused, or cut off. */
export async function* stream(path: string, options: Call = {}): AsyncGenerator<ServerEvent> {
  const response = await send(path, options);
  if (!response.body) throw new ApiError(0, "no_body", "no body");
  try {
    yield* events(response.body);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    const cut = new ApiError(0, "cut_off", String(error));
    watcher(cut);
    throw cut;
  }
}

async function send(path: string, { method = "GET", body, signal }: Call): Promise<Response> {
  const asked: RequestInit = { method, credentials: "same-origin", headers: { Accept: "application/json" } };
  if (signal) asked.signal = signal;
  if (method === "POST") {
    asked.body = JSON.stringify(body ?? {});
    asked.headers = { Accept: "application/json", "Content-Type": "application/json" };
  }
  let response: Response;
  try {
    response = await fetch(path, asked);
  } catch (error) {
    if (signal?.aborted) throw error;
    const failed = new ApiError(0, "offline", String(error));
    watcher(failed);
    throw failed;
  }
  if (response.ok) {
    watcher(null);
    return response;
  }
  const failed = await refusal(response);
  watcher(failed);
  throw failed;
}

/** The three bodies that a door of ours may answer an error with. */
async function refusal(response: Response): Promise<ApiError> {
  let code = `http_${response.status}`;
  let message = `${response.status} ${response.statusText}`;
  try {
    const told = (await response.json()) as { error?: { code?: string; message?: string } | string; message?: string };
    if (typeof told.error === "object") {
      code = told.error.code ?? code;
      message = told.error.message ?? message;
    } else {
      message = told.message ?? told.error ?? message;
    }
  } catch {
    // Whoever stands between us and the server may answer with something else.
  }
  return new ApiError(response.status, code, message);
}
