"""Describe the network of a configuration: ``python describe_network.py with config_training.yaml key=value ...``."""

from pathlib import Path

from incasem_like.commands.describe_network import main

if __name__ == "__main__":
    main(Path(__file__))
