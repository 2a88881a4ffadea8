"""Predict with many checkpoints of one training: ``python predict_multiple.py --run_id ID with key=value ...``."""

from pathlib import Path

from incasem_like.commands.predict_multiple import main

if __name__ == "__main__":
    main(Path(__file__))
