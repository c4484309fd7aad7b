"""A Python function of the user's as a reward. Its module is imported, so its code runs with the user's rights."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from humanward.errors import InputError
from humanward.records import Prompt
from humanward.reward.sources import SourceError, checked_scores

Function = Callable[[list[str], list[str]], Any]
"""(prompts, responses) -> one number for each response; a prompt is its last user turn."""


class FunctionReward:
    """The function that ``path`` (module:function) names; InputError where there is none.

    The module is looked for in the folder that humanward was started in, and then wherever Python looks.
    """

    def __init__(self, path: str, name: str = "function") -> None:
        self.path, self.name = path, name
        self.function = load_function(path)

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) what the function returns; SourceError where it raises, or returns anything else than B numbers."""
        if not responses:
            return torch.empty(0)
        asked = [prompt.as_messages()[-1].content for prompt in prompts]
        try:
            scores = self.function(asked, list(responses))
            if isinstance(scores, Iterator):
                scores = list(scores)
        except Exception as error:
            raise SourceError(
                f"{self.path}: raised {_described(error)} on {len(responses)} responses; mend the function"
            ) from error
        return checked_scores(scores, len(responses), f"{self.path}:")


def load_function(path: str) -> Function:
    """The function at ``module:function``; importing the module runs its code."""
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(f"{path}: importing {module_name} needs the module {error.name}; install it") from error
        raise InputError(
            f"{path}: no module {error.name} in {here} or among the installed packages; start humanward in the folder "
            "of its file, or set PYTHONPATH"
        ) from error
    except Exception as error:
        raise InputError(f"{path}: importing {module_name} raised {_described(error)}; mend the module") from error
    finally:
        sys.path.remove(here)
    function = getattr(module, name, None)
    if not callable(function):
        what = "has no" if function is None else "has something else than a function as"
        raise InputError(f"{path}: {module_name} {what} {name}; name a function (prompts, responses) -> scores")
    return function


def _described(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
