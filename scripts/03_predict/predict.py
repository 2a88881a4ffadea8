"""Predict volumes with a tracked network: ``python predict.py --run_id ID [--checkpoint best] with key=value ...``."""

from pathlib import Path

from incasem_like.commands.predict import main

if __name__ == "__main__":
    main(Path(__file__))
