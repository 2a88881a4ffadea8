"""Compare many trainings: ``python sweep.py with config_training.yaml sweep.yaml key=value ...``."""

from pathlib import Path

from incasem_like.commands.sweep import main

if __name__ == "__main__":
    main(Path(__file__))
