"""A job from the command line and its `--config` file."""

import os
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

from pipeline.refusal import Refusal, choose


def reachable_from_cluster(paths: dict[str, tuple[str, ...]]) -> None:
    """Refuse relative paths inside a submitted job; `paths` are the values of each flag.

    Raises:
        Refusal: naming the first.
    """
    if not os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return
    for flag, path in ((flag, path) for flag, urls in paths.items() for path in urls):
        if "://" not in path and not Path(path).is_absolute():
            raise Refusal(
                f"{flag} {path!r} is relative to a working directory that only exists inside this submitted job; "
                "give an absolute path every node sees, or a URL such as s3://bucket/prefix"
            )


def configured(arguments: list[str], config: type) -> list[str]:
    """A command line with the fields of its `--config FILE` (TOML) added; what is on the command line wins.

    Raises:
        Refusal: where the file cannot be read or names an unknown field.
    """
    if "--config" not in arguments:
        return arguments
    position = arguments.index("--config")
    if position + 1 == len(arguments):
        raise Refusal("--config needs a file")
    path, rest = Path(arguments[position + 1]), arguments[:position] + arguments[position + 2 :]
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Refusal(f"--config {path}: {error}") from error
    for key, value in content.items():
        flag = choose(key.replace("-", "_"), [f.name.rstrip("_") for f in fields(config)], f"field in {path}").replace("_", "-")
        if any(argument.split("=")[0] == f"--{flag}" for argument in rest):
            continue
        if isinstance(value, bool):
            rest.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            rest += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return rest


def command_line(config: type, prog: str, arguments: list[str] | None = None, epilogue: str = ""):
    """Read a job from the command line of `prog` and its `--config` file."""
    import tyro

    arguments = configured(sys.argv[1:] if arguments is None else list(arguments), config)
    description = f"{config.__doc__}\n\n--config FILE gives the same fields as TOML; the command line wins.\n\n{epilogue}"
    return tyro.cli(config, prog=f"python -m {prog}", args=arguments, description=description)
