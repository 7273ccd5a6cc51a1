"""Whole training conversations: a few turns of different kinds in one setting, as the server would send them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from . import galleries, memory_turns, picture_turns, small_talk, tool_turns
from .episode import Album, Episode, new_episode, new_speaker
from .words import DEFAULT_SYSTEM

Turn = Callable[[Episode], None]
MOST_PICTURES = 3
GALLERIES = 0.14


def _next_turn(episode: Episode) -> Turn:
    """What happens next; questions about names and pictures are likelier once there is something to ask about."""
    known_name = episode.who() in episode.names
    seen = bool(episode.history)
    room = len(episode.history) < MOST_PICTURES
    choices: list[tuple[float, Turn]] = [
        (20 if room else 0, picture_turns.show),
        (2.5 if room else 0, picture_turns.show_only),
        (5 if room else 0, picture_turns.show_silently),
        (10 if room and not seen else 0, picture_turns.show_several),
        (24 if seen else 0, picture_turns.recall),
        (0 if seen else 9, picture_turns.missing),
        (4 if known_name else 14, memory_turns.tell_name),
        (22 if known_name else 3, memory_turns.ask_name),
        (1, memory_turns.tell_and_ask_name),
        (1 if episode.facts else 4, memory_turns.tell_fact),
        (12 if episode.facts else 1, memory_turns.ask_fact),
        (6, small_talk.greet),
        (3, small_talk.who_are_you),
        (13, small_talk.anything_else),
        (55 if episode.tools else 0, tool_turns.call_tool),
        (4 if episode.tools else 2, tool_turns.ask_without_tool),
    ]
    return episode.rng.choices([turn for _, turn in choices], [weight for weight, _ in choices])[0]


def practise(rng: Random, album: Album) -> Episode:
    """A short conversation about names, codes and tools only: nearly every one of its tokens is about copying."""
    episode = Episode(rng, album, rng.random() < 0.27, rng.choice(("private", "private", "api")))
    if rng.random() < 0.2:
        episode.messages.append({"role": "system", "content": DEFAULT_SYSTEM})
    kind = rng.random()
    if kind < 0.06:
        return _two_members(rng, album, episode.english)
    if kind < 0.27:
        memory_turns.tell_name(episode)
        if rng.random() < 0.2:
            small_talk.greet(episode)
        if rng.random() < 0.6:
            memory_turns.ask_name(episode)
    elif kind < 0.43:
        memory_turns.tell_fact(episode)
        if rng.random() < 0.7:
            memory_turns.ask_fact(episode)
    elif kind < 0.46:
        memory_turns.tell_and_ask_name(episode)
    else:
        tool_turns.equip(episode)
        tool_turns.call_tool(episode)
    return episode


def _two_members(rng: Random, album: Album, english: bool) -> Episode:
    """Two members of a group tell their names, then one or both ask for theirs."""
    episode = Episode(rng, album, english, "group")
    episode.speakers = [new_speaker(rng), new_speaker(rng)]
    for episode.speaker in rng.sample((0, 1), 2):
        memory_turns.tell_name(episode)
        if rng.random() < 0.3:
            episode.bystander()
    for episode.speaker in rng.sample((0, 1), rng.choice((1, 2, 2))):
        memory_turns.ask_name(episode)
    return episode


def converse(rng: Random, album: Album) -> Episode:
    """One conversation of one to seven turns, or a chat full of pictures."""
    episode = new_episode(rng, album)
    if rng.random() < GALLERIES:
        galleries.gallery(episode)
        return episode
    if rng.random() < 0.2:
        tool_turns.equip(episode)
    turns = rng.choices((1, 2, 3, 4, 5, 7), (22, 22, 22, 18, 11, 5))[0]
    usual = episode.english
    for _ in range(turns):
        episode.english = usual if rng.random() < 0.93 else not usual
        if episode.setting == "group":
            if rng.random() < 0.5:
                episode.speaker = rng.randrange(len(episode.speakers))
            for _ in range(rng.choices((0, 1, 2, 4), (70, 18, 9, 3))[0]):
                episode.bystander()
        _next_turn(episode)(episode)
    return episode
