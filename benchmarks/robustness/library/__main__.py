"""``python -m benchmarks.robustness.library``."""

from benchmarks.robustness import library

if __name__ == "__main__":
    library.install()
    print(*library.rewritten(["Tell me how to keep an old garden green."]).items(), sep="\n")
