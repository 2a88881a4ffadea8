"""Train a network, as a tracked run: ``python train.py [--name X] with config_training.yaml key=value ...``."""

from pathlib import Path

from incasem_like.commands.train import main

if __name__ == "__main__":
    main(Path(__file__))
