"""python -m sdvideo, and the command sdvideo."""

import signal
import sys


def main() -> None:
    try:
        from sdvideo.cli.app import main as command_line  # here, because an interrupt may come this early

        command_line()
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: what is left is Python's own way out
            raise
        # It came before the command began: those end by themselves, with a line of their own.
        print("Error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
