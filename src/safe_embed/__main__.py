"""``python -m safe_embed``: the command ``safe-embed``."""

from safe_embed.cli.app import main

if __name__ == "__main__":
    main()
