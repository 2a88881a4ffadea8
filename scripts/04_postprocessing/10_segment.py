"""Segment a prediction into objects: ``10_segment.py --run_id PREDICTION with segmentation.yaml key=value ...``."""

from pathlib import Path

from incasem_like.commands.segment import main

if __name__ == "__main__":
    main(Path(__file__))
