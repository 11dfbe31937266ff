"""The learning-rate schedule."""

import math

from senet_lib.study import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over the whole run: linear warm-up, then the recipe's schedule."""
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
    if recipe.schedule == "one_cycle":
        return recipe.lr * (1 - done)
    if recipe.schedule == "multistep":
        return recipe.lr * recipe.decay ** sum(step / total >= milestone for milestone in recipe.milestones)
    return recipe.lr
