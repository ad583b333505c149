"""The protocol of the authors' closest public code: its numbers and its optimizer."""

import dataclasses
from functools import cache
from typing import Any

import optax

from experiments.shared.splits import Inputs

EPOCHS = 90


def with_protocol(study: Any, inputs: Inputs) -> Any:
    """Gives a study the numbers of the public code, but for settings that are not at their defaults.

    Ridge heads with a penalty of 1, squared error, 100 rounds, and 90 epochs of fine-tuning in batches of 64.
    """
    _, found = inputs.indices(0, "finetuning", inputs.source.classes)
    wanted: dict[str, Any] = {
        "head": "ridge",
        "penalties": (1.0,),
        "label_loss": "squared_error",
        "finetune_loss": "squared_error",
        "rounds": 100,
        "batch_size": 64,
        "finetune_rate": 5e-5,
        "shifts": (),
    }
    chosen = _changed(study)
    if study.finetune_rates:
        del wanted["finetune_rate"]
    made = dataclasses.replace(study, **{name: value for name, value in wanted.items() if name not in chosen})
    if "finetune_steps" in chosen:
        return made
    return dataclasses.replace(made, finetune_steps=EPOCHS * -(-len(found) // made.batch_size))


@cache
def transformation(rate: float, steps: int) -> optax.GradientTransformation:
    """Makes the public code's: SGD, momentum 0.9, decay 1e-4, and a tenth of the rate after 30, 60 and 80 epochs."""
    places = {steps * part // EPOCHS: 0.1 for part in (30, 60, 80)}
    schedule = optax.piecewise_constant_schedule(rate, places)
    return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(schedule, momentum=0.9))


def _changed(study: Any) -> set[str]:
    """The settings that are not at their defaults."""
    return {field.name for field in dataclasses.fields(study) if getattr(study, field.name) != field.default}
