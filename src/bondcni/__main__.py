"""``python -m bondcni`` is ``bondctl``."""

from bondcni.cli.main import main

if __name__ == "__main__":
    main()
