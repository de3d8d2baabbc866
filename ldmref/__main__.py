"""`python -m ldmref` runs the command `ldmref`."""

try:
    import os
    import signal
    import sys
except KeyboardInterrupt:
    raise SystemExit(130) from None


def main() -> int:
    """Run the command line; Ctrl-C ends the process quietly even while Python still imports."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    from ldmref.apps.cli import main as command

    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
