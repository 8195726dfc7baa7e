"""``python -m airflow_openai_batch.emulator``: the command line of the emulator."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from airflow_openai_batch import __version__
from airflow_openai_batch.emulator import faults, markers, oddities, responders
from airflow_openai_batch.emulator.server import serve
from airflow_openai_batch.emulator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = f"""
Markers in a request's text
---------------------------
{(markers.__doc__ or "").partition(chr(10) * 2)[2]}
Faults (--fault, POST /emulator/faults)
---------------------------------------
{(faults.__doc__ or "").partition(chr(10) * 2)[2]}
Oddities (--oddity, and what modes are made of)
-----------------------------------------------
{(oddities.__doc__ or "").partition(chr(10) * 2)[2]}
Responders (--responder)
------------------------
{(responders.__doc__ or "").partition(chr(10) * 2)[2]}
Beside the API
--------------
GET /emulator/health, GET and DELETE /emulator/ledger, GET, POST and DELETE /emulator/faults. None needs a key.

Example
-------
python -m airflow_openai_batch.emulator --port 8000 --rows-per-second 20 --token-limit gpt-5-mini=100000 \\
    --fault 'status,call=batches.retrieve,status=429,retry_after=1,times=3' --fault expire,after_rows=10
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_openai_batch.emulator",
        description="An OpenAI Batch API server without a model, for demos, tests and CI.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    add = parser.add_argument_group("server").add_argument
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", type=int, default=8000, help="port to listen on; 0 picks a free one (8000)")
    add("--data", metavar="DIR", help="keep the bytes of files here (default: a temporary directory, removed at exit)")
    add("--key", action="append", help="KEY or KEY=PROJECT to accept; repeatable (every key that begins with sk-)")
    add("--token", action="append", help="Entra token to accept in mode azure; repeatable (every one: eyJ...)")
    add("--mode", choices=list(oddities.MODES), help="the server to be like (openai)")
    add("--oddity", action="append", metavar="NAME", help="one thing more that is odd (see below); repeatable")
    add = parser.add_argument_group("answers").add_argument
    add("--models", nargs="+", metavar="MODEL", help="models that exist (default: OpenAI's)")
    add("--responder", metavar="NAME", help="auto, echo, sentiment, or module:attribute (auto)")
    add = parser.add_argument_group("speed, in real seconds").add_argument
    add("--validating", type=float, metavar="S", help="least time in validating (1)")
    add("--in-progress", type=float, metavar="S", help="least time in in_progress, over which the rows are spread (3)")
    add("--finalizing", type=float, metavar="S", help="time in finalizing (1)")
    add("--cancelling", type=float, metavar="S", help="time in cancelling (1)")
    add("--rows-per-second", type=float, metavar="N", help="rows a batch runs in a second, instead of --in-progress")
    add("--window", type=float, metavar="S", help="what the completion window of 24 h takes (86400)")
    add = parser.add_argument_group("limits").add_argument
    add("--token-limit", action="append", metavar="[MODEL=]N", help="enqueued tokens a model may hold; repeatable")
    add("--token-lag", type=float, metavar="S", help="how long tokens count on after a batch's end (0)")
    add("--batches-per-hour", type=int, metavar="N", help="creates accepted in an hour (any; OpenAI: 2000)")
    add("--requests-per-minute", type=int, metavar="N", help="synchronous calls of a model in a minute (30000)")
    add("--tokens-per-minute", type=int, metavar="N", help="tokens of such calls in a minute (180000000)")
    add("--minute", type=float, metavar="S", help="what a minute of these two takes (60)")
    add("--max-file-bytes", type=int, metavar="N", help="greatest file (512 MB)")
    add("--max-batch-bytes", type=int, metavar="N", help="greatest input file of a batch (200 MB)")
    add("--max-requests", type=int, metavar="N", help="most requests in a batch (50000; azure: 100000)")
    add("--max-embedding-inputs", type=int, metavar="N", help="most embedding inputs in a batch (50000)")
    add("--file-processing", type=float, metavar="S", help="time for which pending files are (1)")
    add = parser.add_argument_group("faults").add_argument
    add("--fault", action="append", metavar="FAULT", help="JSON, or name,key=value,... (see below); repeatable")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the emulator until it is told to stop.

    :param argv: arguments without the program's name. Default: the process's own.
    :return: exit status: 0 after SIGINT or SIGTERM, 1 when it can't listen, 2 for arguments that make no sense.
    """
    parser = _parser()
    options = vars(parser.parse_args(argv))
    # uvicorn raises the signal again once it has shut down; without a handler that would kill the process.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve(Settings(**options))
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
