"""Search segmentation parameters: ``11_search_parameters.py --run_id ID --labels LABELS with key=value ...``."""

from pathlib import Path

from incasem_like.commands.search import main

if __name__ == "__main__":
    main(Path(__file__))
