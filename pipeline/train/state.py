"""How far a training at one rate has come: a safetensors file that is replaced whole after every epoch. No pickle."""

import json
from dataclasses import dataclass, field

from torch import Tensor

from pipeline import storage
from pipeline.backbones.libraries import checkpoint
from pipeline.backbones.libraries.checkpoint import Recipe
from pipeline.refusal import Refusal
from pipeline.tables import files


@dataclass(frozen=True)
class State:
    """What is known after `len(epochs)` epochs.

    Attributes:
        epochs: a row of the training table each.
        network: the network's tensors by name.
        memory: what the optimiser remembers, see `descent.memory_of`.
        diverged: whether the loss has left the numbers, which ends the training at this rate.
    """

    epochs: tuple[dict, ...] = ()
    network: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)
    diverged: bool = False


@dataclass(frozen=True)
class StateFile:
    """Where the state of one rate is kept, and what it must belong to.

    Attributes:
        decides: everything that decides the values of the training, by name.
    """

    url: str
    recipe: Recipe
    decides: dict

    def write(self, state: State) -> None:
        tensors = {f"network.{name}": value for name, value in state.network.items()}
        tensors |= {f"memory.{name}": value for name, value in state.memory.items()}
        beside = {"epochs": json.dumps(state.epochs), "decides": json.dumps(self.decides), "diverged": json.dumps(state.diverged)}
        files.write_bytes(self.url, checkpoint.encode(self.recipe, tensors, **beside))

    def read(self) -> State:
        """The state as it was left; an empty one where there is none.

        Raises:
            Refusal: where another training left it, with what differs.
        """
        try:
            content = storage.read_bytes(self.url)
        except FileNotFoundError:
            return State()
        recipe, tensors, metadata = checkpoint.decode(content, self.url)
        self.same(recipe, json.loads(metadata["decides"]))
        parts = {"network": {}, "memory": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        return State(tuple(json.loads(metadata["epochs"])), **parts, diverged=json.loads(metadata["diverged"]))

    def same(self, recipe: Recipe, decides: dict) -> None:
        """Refuse what another training left here."""
        found = checkpoint.differences(recipe, self.recipe)
        ours = json.loads(json.dumps(self.decides))
        found += [f"{name} {decides.get(name)!r}, not {ours.get(name)!r}" for name in ours if decides.get(name) != ours[name]]
        if found:
            raise Refusal(f"{self.url} belongs to another training: it has {'; '.join(found)}. Give another --out, or remove it")
