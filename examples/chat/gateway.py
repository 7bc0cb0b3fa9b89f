"""The gateway: users' WebSockets on one side, rooms on the other.

A message is a trace, from its arrival to its last delivery; so is an HTTP request. Every line
in between has its trace id and its user, also those of ``rooms`` and the server's access log.
All of that is the one call of ``setup_observability``.
"""

from collections import defaultdict
from typing import Any, Final

from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect

from chat.rooms import Message, Room, words_of
from otel_logging import bind_context, get_logger, setup_observability, traced

MESSAGE_BUDGET_S: Final = 0.3  # longer feels slow in a chat

setup_observability("chat-gateway", budgets={"message": MESSAGE_BUDGET_S})

log = get_logger(__name__)
rooms: dict[str, Room] = {}
members: defaultdict[str, dict[str, WebSocket]] = defaultdict(dict)


app = FastAPI(title="Chat gateway")


@app.get("/rooms/{name}/messages")
async def messages(name: str, like: str = "") -> list[dict[str, Any]]:
    """Return a room's messages, or those that are most like a text."""
    room = rooms.get(name)
    if room is None:
        log.warning("no such room", room=name)
        raise HTTPException(404)
    with traced("search", budget=0.1):
        found = room.like(words_of(like)) if like else room.messages[-50:]
    log.info("messages read", room=name, found=len(found))
    return [_shown(message) for message in found]


@app.websocket("/rooms/{name}")
async def join(websocket: WebSocket, name: str, user_id: str) -> None:
    """Hold a user's connection to a room."""
    await websocket.accept()
    bind_context(user_id=user_id, room=name)
    members[name][user_id] = websocket
    log.info("joined", members=len(members[name]))
    try:
        async for text in websocket.iter_text():
            await receive(name, user_id, text)
    except WebSocketDisconnect:
        log.info("connection lost")
    finally:
        members[name].pop(user_id, None)
        log.info("left", members=len(members[name]))


async def receive(name: str, user_id: str, text: str) -> None:
    """Keep a message, look for others like it, and deliver both to everybody in the room."""
    log.info("message received", characters=len(text))
    room = rooms.setdefault(name, Room(name))
    with traced("search"):
        before = room.like(words_of(text))
    message = room.post(user_id, text)
    delivery = {**_shown(message), "like": [_shown(other) for other in before]}
    with traced("deliver", members=len(members[name])):
        for member, websocket in list(members[name].items()):
            try:
                await websocket.send_json(delivery)
            except (RuntimeError, WebSocketDisconnect):  # has left meanwhile
                log.warning("not delivered", to=member)
    log.info("message delivered")


def _shown(message: Message) -> dict[str, Any]:
    return {"number": message.number, "user_id": message.user_id, "text": message.text}
