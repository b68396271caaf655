"""Saliency Atlas: every image of a dataset explained by every method, as tables."""

__all__ = ["Network", "explain"]


def __getattr__(name: str):
    """Import the names for a notebook on demand, and torch with them; a worker that lists, decodes or publishes does without."""
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from pipeline.run import notebook

    return getattr(notebook, name)
