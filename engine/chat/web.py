"""A conversation in a browser: a page of Gradio's on loopback, for whoever has its address with the token.

Nothing is fetched from or sent to anywhere else: Gradio is told so, and the browser is, by a content policy.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.chat.conversation import Conversation, Turn, Wishes
from engine.chat.figures import Meter
from engine.client import AsyncClient
from engine.errors import ConfigError, ContextExceeded, UmbrellaError

if TYPE_CHECKING:
    from gradio import Blocks

HOST = "127.0.0.1"
USUAL = Wishes(max_tokens=512, temperature=0.6, top_p=0.9, repetition_penalty=1.05)
"""Where the sliders stand if the command line does not say: UMbreLLa's for chats, but longer."""
SHOWN_EVERY_S = 0.05
"""Gradio sends all of the page's text each time."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)

History = list[dict[str, str]]
Shown = tuple[History, Conversation, str, str]
"""Messages, the conversation, the line about performance, and what is in the input field."""


class Guarded:
    """ASGI middleware: lets in who has the token, from the address at first and from a cookie then."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = TrustedHostMiddleware(app, allowed_hosts=[HOST, "localhost"])
        self._token = token
        self._cookie = f"umbrella_chat_{port}"  # Cookies know no ports.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 303 or 403."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self._is_right(given) and scope["type"] == "http":
            answer = RedirectResponse(scope["path"], 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            await answer(scope, receive, send)
            return
        cookie = SimpleCookie(Headers(scope=scope).get("cookie", "")).get(self._cookie)
        if scope["type"] != "http" or cookie is None or not self._is_right(cookie.value):
            message = (
                "Open the address that umbrella-chat has printed: it holds the token that this page wants."
            )
            await PlainTextResponse(message, 403)(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


class Page:
    """What the page does. Gradio keeps a conversation for each of its windows."""

    def __init__(self, client: AsyncClient, system: str, wishes: Wishes, max_turns: int | None) -> None:
        self._client, self._system, self._wishes, self._max_turns = client, system, wishes, max_turns

    async def answer(
        self,
        question: str,
        conversation: Conversation | None,
        max_tokens: int,
        temperature: float,
        top_p: float,
        repetition_penalty: float,
    ) -> AsyncGenerator[Shown]:
        """The page as the answer grows. Closing this stops it, and keeps what there is."""
        before = conversation or Conversation(self._system)
        if not question.strip():
            yield _history(before), before, "", question
            return
        wishes = Wishes(self._wishes.model, int(max_tokens), temperature, top_p, repetition_penalty)
        meter = Meter()
        asked = {"role": "user", "content": as_written(question)}
        yield [*_history(before), asked], before, "", ""
        fields: dict[str, Any] = {"umbrella": before.umbrella, **wishes.options()}
        events = self._client.chat(before.messages(question), stream=True, **fields)
        after, shown_s = before, 0.0
        try:
            async with aclosing(events):
                async for event in events:
                    meter.note(event)
                    if meter.text and (meter.finish_reason or time.monotonic() >= shown_s + SHOWN_EVERY_S):
                        shown_s = time.monotonic()
                        is_whole = meter.finish_reason is not None
                        turn = Turn(question, meter.text, meter.figures(), is_whole)
                        after = before.after(turn, self._max_turns)
                        yield _history(after), after, meter.figures().line(), ""
        except ContextExceeded as error:
            if not before.told:
                yield _history(before), before, str(error), question
                return
            shorter = self.answer(
                question, before.shortened(), max_tokens, temperature, top_p, repetition_penalty
            )
            async with aclosing(shorter):
                async for shown in shorter:
                    yield shown
        except UmbrellaError as error:
            yield _history(after), after, str(error), "" if meter.text else question

    def reset(self) -> Shown:
        """A new conversation."""
        return [], Conversation(self._system), "", ""


def as_written(text: str) -> str:
    """Markdown in which HTML outside of code is the text it is: Gradio would leave it out."""
    pieces = _CODE.split(text)
    return "".join(piece if at % 2 else piece.replace("<", "&lt;") for at, piece in enumerate(pieces))


def _history(conversation: Conversation) -> History:
    return [
        {"role": role, "content": as_written(content)}
        for turn in conversation.turns
        for role, content in (("user", turn.question), ("assistant", turn.answer))
    ]


def _blocks(page: Page, title: str, wishes: Wishes) -> Blocks:
    """Components of the page, and what they do."""
    import gradio as gr

    with gr.Blocks(
        title="umbrella-chat", analytics_enabled=False, fill_height=True, fill_width=True
    ) as blocks:
        shown = gr.Chatbot(
            label=title,
            scale=1,
            buttons=["copy"],
            allow_tags=False,
            allow_file_downloads=False,
            feedback_options=None,
            elem_id="chat",
        )
        performance = gr.Textbox(label="Performance", interactive=False, elem_id="performance")
        question = gr.Textbox(label="You", autofocus=True, lines=2, max_lines=12, elem_id="question")
        with gr.Row():
            send = gr.Button("Send", variant="primary")
            stop = gr.Button("Stop")
            reset = gr.Button("Reset")
        with gr.Row():
            sliders = [
                gr.Slider(1, 4096, wishes.max_tokens or USUAL.max_tokens, step=1, label="Length, in tokens"),
                gr.Slider(
                    0, 2, _chosen(wishes.temperature, USUAL.temperature), step=0.05, label="Temperature"
                ),
                gr.Slider(0, 1, _chosen(wishes.top_p, USUAL.top_p), step=0.05, label="Top-p"),
                gr.Slider(1, 2, USUAL.repetition_penalty, step=0.05, label="Repetition penalty"),
            ]
        conversation = gr.State(None)
        outputs = [shown, conversation, performance, question]
        asked = gr.on([send.click, question.submit], page.answer, [question, conversation, *sliders], outputs)
        stop.click(None, cancels=[asked], queue=False)
        # One after the other: an answer that is still on its way would undo what a reset shows.
        stopped = gr.on([reset.click, shown.clear], None, cancels=[asked], queue=False)
        stopped.then(page.reset, None, outputs)
    return blocks


def _chosen(value: float | None, usual: float | None) -> float | None:
    return usual if value is None else value


def application(page: Page, title: str, wishes: Wishes, token: str, port: int) -> Guarded:
    """The page as an ASGI application. Raises ConfigError where there is no Gradio."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
        from fastapi import FastAPI
        from gradio.themes import Default
    except ImportError as error:
        raise ConfigError("--web needs Gradio: install umbrella-lsp with its extra `web`.") from error
    blocks = _blocks(page, title, wishes)
    blocks.queue(api_open=False, default_concurrency_limit=None)
    theme = Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None), blocks, "/", server_name=HOST, server_port=port, footer_links=[],
        run_history=False, ssr_mode=False, pwa=False, mcp_server=False, show_error=False, theme=theme,
    )  # fmt: skip
    return Guarded(app, token, port)


def serve(page: Page, title: str, wishes: Wishes, port: int, tell: Callable[[str], None]) -> None:
    """Serve until the process is interrupted. `tell` is given the address. Raises ConfigError."""
    import uvicorn

    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(f"--port {port} cannot be used: {error.strerror}. Choose another.") from error
    with listener:
        token, port = secrets.token_urlsafe(32), listener.getsockname()[1]
        config = uvicorn.Config(
            application(page, title, wishes, token, port),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        tell(f"http://{HOST}:{port}/?token={token}")
        with suppress(KeyboardInterrupt):  # The way to end it.
            asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
