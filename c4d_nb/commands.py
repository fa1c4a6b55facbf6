"""What the commands of this package share: how they end."""

import argparse
import logging
import sys
from collections.abc import Callable

from c4d_nb.errors import InputError
from c4d_nb.kubric.generate import EXIT_BAD_INPUT, EXIT_INTERRUPTED

_log = logging.getLogger(__name__)


def run_command(
    run: Callable[[argparse.Namespace], object],
    options: argparse.Namespace,
    *,
    after_interruption: str = "nothing was written",
) -> int:
    """The exit code of a command; a mistake of the user's is one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        run(options)
    except InputError as error:
        _log.error("error: %s", error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        _log.error("interrupted: %s", after_interruption)
        return EXIT_INTERRUPTED
    return 0
