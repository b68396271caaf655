"""The state of a training at one rate: a safetensors file that is replaced whole after every epoch. No pickle."""

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
    """A training after `len(epochs)` epochs.

    Attributes:
        epochs: a row of the training table each.
        network: the network's tensors by name.
        memory: the optimiser's tensors, see `descent.memory_of`.
        diverged: whether the loss has left the numbers, which ends the training at this rate.
    """

    epochs: tuple[dict, ...] = ()
    network: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)
    diverged: bool = False


@dataclass(frozen=True)
class StateFile:
    """The file of the state of one rate, and the training that it must belong to.

    Attributes:
        identity_fields: everything beside the recipe that decides the values of the training, by name.
    """

    url: str
    recipe: Recipe
    identity_fields: dict

    def write(self, state: State) -> None:
        """Replace the file."""
        tensors = {f"network.{name}": value for name, value in state.network.items()}
        tensors |= {f"memory.{name}": value for name, value in state.memory.items()}
        metadata = {"epochs": state.epochs, "decides": self.identity_fields, "diverged": state.diverged}
        encoded = {key: json.dumps(value) for key, value in metadata.items()}
        files.write_bytes(self.url, checkpoint.encode(self.recipe, tensors, **encoded))

    def read(self) -> State:
        """The state in the file; an empty one where there is no file.

        Raises:
            Refusal: where another training left it, with the differences.
        """
        try:
            content = storage.read_bytes(self.url)
        except FileNotFoundError:
            return State()
        recipe, tensors, metadata = checkpoint.decode(content, self.url)
        self._check_same(recipe, json.loads(metadata["decides"]))
        tensors_of: dict[str, dict[str, Tensor]] = {"network": {}, "memory": {}}
        for key, value in tensors.items():
            owner, _, name = key.partition(".")
            tensors_of[owner][name] = value
        epochs, diverged = tuple(json.loads(metadata["epochs"])), json.loads(metadata["diverged"])
        return State(epochs, tensors_of["network"], tensors_of["memory"], diverged)

    def _check_same(self, recipe: Recipe, identity_fields: dict) -> None:
        """Refuse the state of another training."""
        differences = checkpoint.differences(recipe, self.recipe)
        own = json.loads(json.dumps(self.identity_fields))
        differences += [
            f"{name} {identity_fields.get(name)!r}, not {own[name]!r}" for name in own if identity_fields.get(name) != own[name]
        ]
        if differences:
            raise Refusal(f"{self.url} belongs to another training: it has {'; '.join(differences)}. Give another --out, or remove it")
