"""What each script's refusal of bad input is held to."""

from subprocess import CompletedProcess


def assert_says(result: CompletedProcess[str], *words: str) -> None:
    """The command failed with these words on stderr, and no traceback."""
    assert result.returncode != 0, result.stdout
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
