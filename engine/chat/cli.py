"""``umbrella-chat``: what is asked for on the command line, and which engine it is asked of."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from engine import __version__
from engine.chat.conversation import Wishes
from engine.client import AsyncClient, Client, Endpoint, Naming, endpoint_at, fetch_health, token_in
from engine.errors import EngineUnavailable, UmbrellaError
from engine.launch import ensure_engine
from engine.protocol import NO_SERVER, Health

C = TypeVar("C", Client, AsyncClient)

DONE, FAILED, USAGE, NO_ENGINE, INTERRUPTED = 0, 1, 2, 3, 130
NAMING = Naming("--url", "a file that --token-file names")
POLL_S = 0.1
_EPILOG = (
    "Exit codes: 0 done, 1 something went unanswered, 2 bad usage or configuration, 3 no engine answers."
)
_MUTE = (
    "The bundled models only go on with Python code, and know no chats. Configure a model that follows "
    'instructions (configs/ has some), or see what they make of it with chat_template = "meta-llama3".'
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.prompts is None) != (options.output is None):
        parser.error("--prompts and --output go together")
    if options.web and options.prompts:
        parser.error("--web and --prompts are two things: choose one")
    if options.url and options.config:
        parser.error("--config is for an engine of your own; leave it out with --url")
    try:
        return _run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except UmbrellaError as error:
        print(f"umbrella-chat: {error}", file=sys.stderr)
        return NO_ENGINE if isinstance(error, EngineUnavailable) else USAGE


def _run(options: argparse.Namespace) -> int:
    wishes = Wishes(options.model, options.max_tokens, options.temperature, options.top_p)
    token = token_in(options.token_file)
    if options.url:
        place = endpoint_at(options.url.removesuffix("/v1"), token, NAMING)
    else:
        place = ensure_engine(options.config)
    if place.notice:
        print(f"umbrella-chat: {place.notice}", file=sys.stderr)
    if options.prompts:
        return _answer_file(options, _client(AsyncClient, options, token), wishes)
    if options.web:
        return _serve(options, place, _client(AsyncClient, options, token), wishes)
    return _talk(options, place, _client(Client, options, token), wishes)


def _client(kind: type[C], options: argparse.Namespace, token: str) -> C:
    return kind(options.url, token=token, config=options.config, naming=NAMING)


def _answer_file(options: argparse.Namespace, client: AsyncClient, wishes: Wishes) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from engine.chat.batch import Batch
    from engine.chat.prompts import Task, open_repaired, read_answered, read_tasks

    tasks = read_tasks(options.prompts, options.system, wishes.options(), raw=options.raw)
    answered = read_answered(options.output)
    missing = answered.open_tasks(tasks)
    failures: list[UmbrellaError] = []
    console = Console(stderr=True)

    def tell(task: Task, problem: UmbrellaError | None) -> None:
        progress.advance(bar)
        if problem is not None:
            failures.append(problem)
            progress.console.print(f"{task.id}: {problem}", markup=False, highlight=False)

    async def run() -> None:
        async with client:
            await Batch(client, output, tell).run(missing, options.concurrency)

    changed = answered.changed(tasks)
    notes = [f"{len(tasks) - len(missing)} of {len(tasks)} prompts are answered"]
    if changed:
        notes.append(f"{changed} changed since and {'is' if changed == 1 else 'are'} asked again")
    console.print(f"{', '.join(notes)}.", markup=False, highlight=False)
    output = open_repaired(options.output, answered)
    try:
        with Progress(console=console) as progress:
            bar = progress.add_task("Answering", total=len(tasks), completed=len(tasks) - len(missing))
            asyncio.run(run())
    finally:
        os.close(output)
    return FAILED if failures else DONE


def _serve(options: argparse.Namespace, place: Endpoint, client: AsyncClient, wishes: Wishes) -> int:
    from engine.chat.web import Page, serve

    model = ""
    with suppress(EngineUnavailable):  # It may speak OpenAI's API and nothing else.
        model = fetch_health(place).model
    page = Page(client, options.system, wishes, options.max_turns)
    serve(page, model, wishes, options.port, lambda address: print(f"Open {address}", flush=True))
    return DONE


def _talk(options: argparse.Namespace, place: Endpoint, client: Client, wishes: Wishes) -> int:
    from rich.console import Console

    from engine.chat.terminal import PlainScreen, RichScreen, Talk

    console = Console()
    if sys.stdin.isatty() and console.is_terminal:
        screen = RichScreen(console)
        with console.status("") as status:
            health = _loaded(place, status.update)
        if health is not None:
            screen.say(f"{health.model}. /help lists commands, Ctrl-D leaves.")
            if health.message.startswith(NO_SERVER):
                screen.say(health.message)
            if health.model.startswith("bundled:"):
                screen.say(_MUTE)
    else:
        screen = PlainScreen(sys.stdin, sys.stdout, sys.stderr)
    with client:
        talk = Talk(client, screen, options.system, wishes, options.max_turns)
        return DONE if talk.run() else FAILED


def _loaded(place: Endpoint, show: Callable[[str], None]) -> Health | None:
    """Wait until models are loaded. None where the server does not speak of such things."""
    with suppress(EngineUnavailable):
        while (health := fetch_health(place)).state in ("starting", "loading"):
            if health.message.startswith(NO_SERVER):
                break  # Only a request makes an engine look for them again.
            show(f"{health.message or 'Loading'} ({health.progress:.0%})")
            time.sleep(POLL_S)
        return health
    return None


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def _port(text: str) -> int:
    if not 0 <= (number := int(text)) < 1 << 16:
        raise argparse.ArgumentTypeError("it must be between 0 and 65535")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="umbrella-chat", description="Chat with the engine's model.", epilog=_EPILOG
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="what the model is told first")
    parser.add_argument("--model", metavar="NAME", help="an adapter to answer with")
    parser.add_argument("--max-tokens", type=_at_least_one, metavar="N", help="length of an answer at most")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 always takes the likeliest token")
    parser.add_argument("--top-p", type=float, metavar="P", help="sample among tokens of this probability")
    parser.add_argument(
        "--max-turns",
        type=_at_least_one,
        metavar="N",
        help="turns the model is told at most; else all that fit",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    where = parser.add_argument_group("which engine")
    where.add_argument("--config", type=Path, metavar="FILE", help="start your own with this configuration")
    where.add_argument("--url", default="", help="another one, or any server that speaks OpenAI's API")
    where.add_argument("--token-file", default="", metavar="FILE", help="holds the token that it wants")
    web = parser.add_argument_group("in a browser")
    web.add_argument("--web", action="store_true", help="serve a page on loopback, and print its address")
    web.add_argument("--port", type=_port, default=0, help="where; else any port that is free")
    batch = parser.add_argument_group("a file of prompts")
    batch.add_argument("--prompts", type=Path, metavar="FILE", help="JSON: what to ask; see docs/chat.md")
    batch.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON lines: answers, as they come; resumed"
    )
    batch.add_argument("--concurrency", type=_at_least_one, default=1, metavar="N", help="how many at once")
    batch.add_argument(
        "--raw", action="store_true", help="go on with prompts as they are, without a template"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
