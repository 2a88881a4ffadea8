"""``python -m incasem_like``: the console command ``incasem-like``."""

from incasem_like.commands.cli import main

if __name__ == "__main__":
    main()
