"""Make a tracked run of a U-Net that ExLLSM's Keras code stored: ``incasem-like models import`` for an ``.h5`` file."""

import sys

from incasem_like.commands.cli import answer
from incasem_like.terminal import run_guarded

if __name__ == "__main__":
    arguments = sys.argv[1:] or ["--help"]
    run_guarded(lambda: answer(["models", "import", *arguments]), debug="--debug" in arguments)
