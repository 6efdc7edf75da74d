"""Signatures for the reference: what Modules take, and defaults as users know them."""

import importlib
import inspect

import griffe

KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}


class Signatures(griffe.Extension):
    """Gives Modules their fields as arguments, and functions their default values."""

    def on_object(self, *, obj: griffe.Object, **rest) -> None:
        """Call a section as griffe does, or its code would be read as Markdown."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = text.replace("\nExample:\n", "\nExamples:\n")

    def on_function(self, *, func: griffe.Function, **rest) -> None:
        """Write what a private constant stands for; Any says nothing."""
        for parameter in func.parameters:
            name = str(parameter.default)
            if name.startswith("_") and name in func.module.members:
                parameter.default = func.module.members[name].value
            if str(parameter.annotation) == "Any":
                parameter.annotation = None

    def on_class(self, *, cls: griffe.Class, **rest) -> None:
        """Add ``__init__``, and drop the fields: the arguments explain them."""
        text = cls.docstring.value if cls.docstring else ""
        if "Args:\n" not in text:
            return
        module, _, name = cls.path.rpartition(".")
        try:
            built = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:  # of a part whose libraries are not here
            return
        own = griffe.Parameter("self", kind=griffe.ParameterKind.positional_only)
        given = [
            griffe.Parameter(
                parameter.name,
                kind=KINDS[parameter.kind],
                default=None
                if parameter.default is parameter.empty
                else repr(parameter.default),
            )
            for parameter in inspect.signature(built).parameters.values()
        ]
        for field in inspect.get_annotations(built):
            cls.members.pop(field, None)
        init = griffe.Function("__init__", parameters=griffe.Parameters(own, *given))
        cls.set_member("__init__", init)
