"""Forms of a network in which its layers cannot be seen, each refused with the form in which they can."""

from torch import export, fx, jit, nn
from torch.nn.parameter import is_lazy


def not_eager(network: object) -> str | None:
    """Why what a user's function has returned is no network with layers to cut at, and the fix; None where nothing speaks against it."""
    if isinstance(network, export.ExportedProgram):
        return "an exported program, whose layers are gone; return the network itself, as it was before torch.export"
    if isinstance(network, (jit.ScriptFunction, type)):
        return (
            f"the {type(network).__name__} {getattr(network, '__name__', '')}; return a network: call it, with torch.nn.Module as its base"
        )
    return _module_not_eager(network) if isinstance(network, nn.Module) else None


def _module_not_eager(network: nn.Module) -> str | None:
    for path, part in network.named_modules():
        what = "" if not path else f" at {path}"
        if isinstance(part, jit.ScriptModule):
            return f"TorchScript{what}, whose layers nothing can follow; return the network as it was before torch.jit"
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) or hasattr(part.forward, "_torchdynamo_orig_callable"):
            return f"a compiled network{what}, whose layers are fused; return it as it was before torch.compile (_orig_mod holds it)"
        if isinstance(part, fx.GraphModule) and _is_exported(part):
            return f"an exported network{what}, whose layers are gone; return the network itself, as it was before torch.export"
        if ".quantized" in type(part).__module__ or "quantization" in type(part).__module__:
            return f"a quantised network{what}, which has no gradient; return it as it was in floating point"
    lazy = next((name for name, value in (*network.named_parameters(), *network.named_buffers()) if is_lazy(value)), None)
    return lazy and f"a network whose {lazy} has no shape yet; pass one image through it in the function, before it is returned"


def _is_exported(part: fx.GraphModule) -> bool:
    try:
        part.train(part.training)
    except NotImplementedError:  # the switch that torch.export takes away
        return True
    return False
