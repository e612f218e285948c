"""The program's entry point: `kvbench` and `python -m kvbench`."""

# Import nothing else before the path is clean, not even from the standard library: a module that
# Python has not loaded yet might come from a file in the current folder.
from kvbench.import_path import leave_out_current_folder

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    leave_out_current_folder()
    from kvbench.cli import main as run

    run()


if __name__ == "__main__":
    main()
