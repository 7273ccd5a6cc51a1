"""Where the journal goes on while its file cannot be written: lines appended beside it, read at the next start."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from qqvl_client.entries import Changes, Entry, dump_errand, load_errand
from qqvl_client.events import dump_event, load_event
from qqvl_client.outgoing import dump_outgoing, load_outgoing


class Spill:
    """One JSON line per change. Bodies are left out: such a message is read anew after a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, changes: Changes) -> None:
        """Add what has changed; raises OSError when not even that can be written."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in _lines(changes))

    def read(self) -> Changes:
        """Everything appended, newest state; a line cut short by a kill is left out."""
        found = Changes()
        with suppress(FileNotFoundError):
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    found.add(_change(json.loads(line)))
        return found

    def clear(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _lines(changes: Changes) -> Iterator[str]:
    # The entry before its identity: cut between them a resend is answered by the entry's own answer, not dropped.
    for entry_id, entry in changes.entries.items():
        yield json.dumps({"id": entry_id, "entry": None if entry is None else _packed(entry)})
    for errand_id, errand in changes.errands.items():
        yield json.dumps({"errand": errand_id, "is": errand and dump_errand(errand)})
    for identity, taken_at in changes.known.items():
        yield json.dumps({"known": identity.hex(), "at": taken_at})


def _packed(entry: Entry) -> list[Any]:
    state = "taken" if entry.state == "ready" else entry.state
    messages = [dump_outgoing(message) for message in entry.messages]
    flags = [entry.context_only, state, messages, entry.next_part, entry.part_open]
    return [dump_event(entry.event), entry.said_at, entry.taken_at, *flags]


def _change(line: dict[str, Any]) -> Changes:
    if "known" in line:
        return Changes(known={bytes.fromhex(line["known"]): line["at"]})
    if "errand" in line:
        return Changes(errands={line["errand"]: line["is"] and load_errand(line["errand"], *line["is"])})
    if line["entry"] is None:
        return Changes(entries={line["id"]: None})
    event = load_event(line["entry"][0])
    if event is None:
        return Changes()
    entry = Entry(line["id"], event, *line["entry"][1:])
    return Changes(entries={entry.id: replace(entry, messages=tuple(map(load_outgoing, line["entry"][5])))})
