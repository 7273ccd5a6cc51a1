/** Conversations and messages as `/api/page/conversations` tells them. */

export interface Sampling {
  temperature?: number | null;
  top_p?: number | null;
  top_k?: number | null;
  min_p?: number | null;
  repetition_penalty?: number | null;
  presence_penalty?: number | null;
  frequency_penalty?: number | null;
  seed?: number | null;
  max_tokens?: number | null;
  enable_thinking?: boolean | null;
}

export interface Conversation {
  id: string;
  title: string;
  titled: boolean;
  system_prompt: string;
  sampling: Sampling;
  /** As chat completions have them. */
  tools: unknown[];
  tool_choice: unknown;
  head: string | null;
  created_at: number;
  updated_at: number;
  running: boolean;
  preview?: string;
}

export interface Picture {
  sha256: string;
  url: string;
  width: number;
  height: number;
}

export interface ToolCall {
  id: string;
  name: string;
  arguments: string;
}

export interface ToolResult {
  tool_call_id: string;
  content: string;
}

export interface Usage {
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  reasoning_tokens: number;
}

export interface Message {
  id: string;
  parent: string | null;
  role: "user" | "assistant";
  text: string;
  images: Picture[];
  reasoning: string;
  tool_calls: ToolCall[];
  tool_results: ToolResult[];
  status: "done" | "running" | "stopped" | "failed" | "interrupted";
  finish_reason: string | null;
  error: string | null;
  model: string;
  usage: Usage | null;
  first_token_s: number | null;
  seconds: number | null;
  created_at: number;
}
