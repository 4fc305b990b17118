"""Reading the TOML files that people write."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from nvmefence.errors import ConfigError


def read_toml(
    path: str | Path, what: str, if_missing: str, error_class: type[ConfigError] = ConfigError
) -> dict[str, Any]:
    """Read a TOML file. Raises `error_class` with the file, the line, and what to do."""
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise error_class(f"there is no {what} {path}", if_missing) from None
    except OSError as error:
        raise error_class(f"cannot read the {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise error_class(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise error_class(f"{path}: {error}", "correct the file") from None
    except ValueError:  # a NUL in it
        raise error_class(f"not a path of a {what}: {str(path)!a}", if_missing) from None
