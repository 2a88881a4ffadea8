"""From painted labels to a dense segmentation: ``python bootstrap.py with round.yaml key=value ...``."""

from pathlib import Path

from incasem_like.commands.bootstrap import main

if __name__ == "__main__":
    main(Path(__file__))
