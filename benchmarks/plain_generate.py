"""The plainest server there is: ``model.generate`` behind a lock, the whole history read anew for each turn.

What a chat server is before anything is done for speed, and so the baseline of ``chat_load.py``. A process of its own
that knows nothing of this project's engines: Transformers' own classes as they come (sdpa, its own growing cache), the
standard library's HTTP server, one streamed answer at a time.

    python benchmarks/plain_generate.py data/benchmarks/small-qqvl-demo --port 9000
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen3VLProcessor
from transformers.generation.streamers import BaseStreamer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class PictureProcessor(Qwen3VLProcessor):
    """Without the video half, whose classes cannot be imported where torchvision is missing."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


class Plain:
    """One model, one lock."""

    def __init__(self, folder: Path, dtype: str) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        pictures = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self.processor: Any = PictureProcessor(pictures, tokenizer, chat_template=tokenizer.chat_template)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        self._lock = threading.Lock()

    def answer(self, asked: dict[str, Any], tell: Any) -> dict[str, int]:
        """Call ``tell`` with each piece of text; returns the usage."""
        conversation = [
            {"role": message["role"], "content": _parts(message["content"])} for message in asked["messages"]
        ]
        with self._lock:
            inputs = self.processor.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            ).to(self.model.device, dtype=self.model.dtype)
            pieces = _Pieces(self.processor.tokenizer, tell)
            most = asked.get("max_tokens") or 64
            # ``ignore_eos`` as other servers know it: the reply has its full length.
            least = most if asked.get("ignore_eos") else asked.get("min_tokens")
            self.model.generate(**inputs, max_new_tokens=most, min_new_tokens=least, do_sample=False, streamer=pieces)
        prompt = int(inputs["input_ids"].shape[-1])
        return {"prompt_tokens": prompt, "completion_tokens": pieces.count, "total_tokens": prompt + pieces.count}


class _Pieces(BaseStreamer):
    """Tells each token's text at once; Transformers' own streamer keeps the last word back."""

    def __init__(self, tokenizer: Any, tell: Any) -> None:
        self._tokenizer = tokenizer
        self._tell = tell
        self._ids: list[int] = []
        self._told = ""
        self._prompt_seen = False

    @property
    def count(self) -> int:
        return len(self._ids)

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._ids += value.flatten().tolist()
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            self._tell(text[len(self._told) :])
            self._told = text

    def end(self) -> None:
        pass


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {"type": "image", "image": _picture(part["image_url"]["url"])} if part["type"] == "image_url" else part
        for part in content
    ]


def _picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))).convert("RGB")


class Server(ThreadingHTTPServer):
    """``port`` 0 lets the system choose; ``server_port`` tells which."""

    daemon_threads = True

    def __init__(self, plain: Plain, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.plain = plain


class _Handler(BaseHTTPRequestHandler):
    """``GET /v1/models`` and a streamed ``POST /v1/chat/completions``: as much as the load needs."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        listed = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(listed)))
        self.end_headers()
        self.wfile.write(listed)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        usage = self.server.plain.answer(asked, lambda text: self._send([{"index": 0, "delta": {"content": text}}]))
        self._send([], usage=usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def log_request(self, *args: Any) -> None:
        """Nothing: a benchmark's log is for what went wrong."""

    def _send(self, choices: list[dict[str, Any]], **more: Any) -> None:
        event = {"object": "chat.completion.chunk", "model": "m", "choices": choices, **more}
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="最朴素的对手：加锁的 model.generate，每轮把整段历史重读一遍")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    server = Server(Plain(given.checkpoint, given.dtype), given.port)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
