/** What `/admin/…` and `/api/page/live` tell of the bot. */

export interface Effort {
  window_lines: number;
  prompt_tokens: number;
  cached_tokens: number;
  seconds: number;
  model: string;
}

export interface Decision {
  speak: boolean;
  reason: string;
  score: number | null;
  cost_ms: number;
  at: number;
  effort: Effort | null;
}

export interface Speaker {
  id: string;
  name: string;
}

export interface Chat {
  kind: "group" | "private";
  id: string;
  name: string;
  messages: number;
  updated_at: number;
  last?: { role: string; speaker: Speaker; content: string; time: number } | null;
  muted_until?: number | null;
  blocked?: boolean;
}

export interface ChatMessage {
  seq: number;
  role: "user" | "assistant";
  speaker: Speaker;
  content: string;
  images: string[];
  message_id: string | null;
  time: number;
  decision?: Decision | null;
  reply_seq?: number | null;
}

export interface State {
  at: number;
  status: string;
  model: string;
  device: string;
  uptime_s: number;
  running: number;
  waiting: number;
  running_chats: { kind: string; id: string; name: string; seconds: number }[];
  generation_tokens_s: number;
  prompt_tokens_s: number;
  first_token_s: number | null;
  cache_hit: number | null;
  link: { state: string; since: number | null; reason: string };
  cards: { name: string; total_mb: number; used_mb: number; own_mb: number | null; busy: number | null }[];
  memory: { rss_mb: number; total_mb: number; available_mb: number };
  cpu: { own: number; others: number; cores: number };
  busy: number;
  last_client_contact: number | null;
  decisions: Record<string, number>;
  conversations_running: number;
}

export interface Setting {
  key: string;
  value: unknown;
  default: unknown;
  source: string;
  editable: boolean;
  description: string;
  kind: "text" | "number" | "switch" | "choice" | "list" | "map";
  choices?: string[];
}

export interface Change {
  id: number;
  at: number;
  who: string;
  what: string;
  before: unknown;
  after: unknown;
  address: string;
}
