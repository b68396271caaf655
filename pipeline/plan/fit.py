"""An explain spec fitted to a backbone: methods and targets that fit it, what targets mean on it."""

from collections.abc import Mapping
from dataclasses import replace

from pipeline.questions import Questions


def with_sets(questions: Questions, sets: Mapping[str, tuple[int, ...]]) -> Questions:
    """The questions, every class_set target knowing the members of its set, which so are part of what identifies its maps."""
    written = {name: f"{name}={' '.join(map(str, members))}" for name, members in sets.items()}
    targets = []
    for target in questions.targets:
        if target.name == "class_set" and written:
            # all of them to `own`, and to a slip of the hand, which is told what there is
            known = (written[target.argument],) if target.argument in written else tuple(sorted(written.values()))
            target = replace(target, settings=tuple(sorted({**target.args, "sets": known}.items())))
        targets.append(target)
    return replace(questions, targets=tuple(targets))
