"""``lmjax models``: what there is to choose from."""

import dataclasses
import textwrap

from lmjax._command.chosen_model import first_line, ready_made


def add_to(commands) -> None:
    """Add the command to those of the command line."""
    models = commands.add_parser(
        "models", help="list the models, their formulas and parameters"
    )
    models.set_defaults(run=run)


def run(options) -> int:
    """Print each model with its formula and its parameters."""
    for name, kind in ready_made().items():
        fields = ", ".join(field.name for field in dataclasses.fields(kind))
        print(name)
        for line in (first_line(kind).replace("``", ""), f"parameters: {fields}"):
            print(
                textwrap.fill(line, 78, initial_indent="    ", subsequent_indent="    ")
            )
    print("Polynomial:3 is of degree 3. A model of your own: file.py:function")
    return 0
