"""The comparisons of a study: the planned pairs, their verdicts, their caveats, and what the linear model needs."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from senet_lib.analysis import rule, stats
from senet_lib.analysis.contrasts import RunModel
from senet_lib.results import StudyResults, part_records

BOOTSTRAP_SEED = 0


def planned_comparisons(results: StudyResults) -> list[tuple[str, str]]:
    """`planned_pairs` of the study."""
    return planned_pairs(results.study)


def planned_pairs(study: Mapping) -> list[tuple[str, str]]:
    """(treatment, baseline) of every comparison in a study's record: those that it names, or each network with the
    baseline; none if the study gives no verdicts."""
    if not study.get("verdicts", True):
        return []
    if named := study.get("comparisons"):
        return [tuple(pair) for pair in named]
    return [(label, study["baseline"]) for label in study["networks"] if label != study["baseline"]]


def compare(results: StudyResults, pairs: Sequence[tuple[str, str]] | None = None) -> list[rule.Comparison]:
    """The study's planned comparisons by the pre-declared rule, or those of `pairs`, which are not planned and so have
    no verdict. Networks whose runs used different data are not compared. The bootstrap seed is fixed."""
    planned = planned_comparisons(results)
    data = data_of_networks(results)
    usable = [pair for pair in (planned if pairs is None else pairs) if len(data_of_pair(data, pair)) == 1]
    return rule.compare(
        _same_data(results),
        usable,
        np.random.default_rng(BOOTSTRAP_SEED),
        machines=machines(results),
        early=early_training(results),
        planned=len(planned) if pairs is None else 0,
    )


@dataclass(frozen=True)
class Elsewhere:
    """Of a comparison's `runs`, how many (`others`) were not trained on the machine of most of them.

    linked: whether a machine trained runs of both networks; otherwise only other networks link the two. without: the
    comparison without the runs from elsewhere, if its verdict is another one: inconclusive if too few runs are left.
    """

    others: int
    runs: int
    linked: bool
    without: rule.Comparison | None


def runs_elsewhere(results: StudyResults, comparisons: Sequence[rule.Comparison]) -> dict[tuple[str, str], Elsewhere]:
    """(treatment, baseline) -> a caveat to be shown beside the verdict, of those of the `comparisons`, from `compare`,
    that have an interval. None if one machine trained both networks. If the same machine trained both for each seed,
    the difference between the machines cancels: then only if the verdict rests on the runs from elsewhere."""
    places, found = machines(results), {}
    for comparison in comparisons:
        pair = comparison.treatment, comparison.baseline
        used = {(label, seed): place for label in pair for seed, place in places[label].items()}
        if not comparison.difference.exists or len(set(used.values())) == 1:
            continue
        usual = Counter(used.values()).most_common(1)[0][0]
        others = {run for run, place in used.items() if place != usual}
        linked = not set(places[pair[0]].values()).isdisjoint(places[pair[1]].values())
        balanced = rule.on_the_same_machines(places, *pair)
        without = _without(results, others, comparison, needs_interval=balanced) if linked else None
        if without is not None or not balanced:
            found[pair] = Elsewhere(len(others), len(used), linked, without)
    return found


def _without(
    results: StudyResults, left_out: set[tuple[str, int]], comparison: rule.Comparison, needs_interval: bool
) -> rule.Comparison | None:
    """The comparison without some runs (network, seed); None if it has the same verdict then, or no run. Without an
    interval it is inconclusive, which says nothing new of early training, nor if it `needs_interval`."""
    pair = comparison.treatment, comparison.baseline
    kept = [run not in left_out for run in zip(results.runs["label"], results.runs["seed"], strict=True)]
    unplanned = [pair] if comparison.verdict == rule.UNPLANNED else None
    again = compare(replace(results, runs=results.runs[kept]), unplanned)
    found = next((c for c in again if (c.treatment, c.baseline) == pair), None)
    if found is None or found.verdict == comparison.verdict:
        return None
    needs_interval = needs_interval or comparison.verdict == rule.EARLY
    return found if found.difference.exists or not needs_interval else None


def without_uncompared(
    results: StudyResults, comparisons: Sequence[rule.Comparison]
) -> tuple[list[str], list[rule.Comparison]]:
    """The trained networks that no planned comparison uses, and the planned ones of `comparisons`, from `compare`, as
    they are without the runs of these networks. Both empty unless a verdict changes."""
    compared = {label for pair in planned_comparisons(results) for label in pair}
    others = [label for label, seeds in _same_data(results).items() if seeds and label not in compared]
    verdicts = {(pair.treatment, pair.baseline): pair.verdict for pair in comparisons}
    kept = results.runs[results.runs["label"].isin(compared)]
    again = compare(replace(results, runs=kept)) if others else []
    again = [pair for pair in again if verdicts.get((pair.treatment, pair.baseline), rule.UNPLANNED) != rule.UNPLANNED]
    changes = any(verdicts[pair.treatment, pair.baseline] != pair.verdict for pair in again)
    return (others, again) if changes else ([], [])


def run_model(results: StudyResults) -> RunModel:
    """The linear model on which the study's comparisons rest."""
    return RunModel(_same_data(results), machines(results))


def accuracies(results: StudyResults) -> dict[str, dict[int, float]]:
    """label -> {seed: accuracy of the last epoch}, finished runs only; every network of the study is a key."""
    found: dict[str, dict[int, float]] = {label: {} for label in results.labels}
    for run in results.done.itertuples():
        found[run.label][run.seed] = float(run.test_accuracy)
    return found


def _same_data(results: StudyResults) -> dict[str, dict[int, float]]:
    """`accuracies` of the networks whose own runs all used the same data."""
    data = data_of_networks(results)
    return {label: seeds for label, seeds in accuracies(results).items() if len(data[label]) == 1}


def data_of_networks(results: StudyResults) -> dict[str, set[str]]:
    """label -> the fingerprints, as text, of the images that its finished runs were trained and evaluated on: one
    element unless the data changed between the runs."""
    found: dict[str, set[str]] = {label: set() for label in results.labels}
    for run in results.done.itertuples():
        prints = (results.environments[run.run_id].get("data") or {}).get("fingerprints")
        found[run.label].add(json.dumps(prints, sort_keys=True))
    return found


def data_of_pair(data: Mapping[str, set[str]], pair: tuple[str, str]) -> set[str]:
    return set.union(*(data.get(label, set()) for label in pair))


def controls(results: StudyResults, labels: Collection[str]) -> dict[str, str]:
    """network -> its control: as in `first_controls`, or the baseline for a network that is in no planned comparison.
    Only of `labels` whose control is another of them and has the same data."""
    baseline = results.study["baseline"]
    known = first_controls(planned_comparisons(results), baseline)
    found = {label: known.get(label, baseline) for label in labels}
    data = data_of_networks(results)
    return {
        label: control
        for label, control in found.items()
        if control != label and control in labels and len(data_of_pair(data, (label, control))) == 1
    }


def first_controls(pairs: Sequence[tuple[str, str]], baseline: str) -> dict[str, str]:
    """network -> the baseline if it is compared with it, else the first network that it is compared with."""
    return dict(reversed(pairs)) | {label: control for label, control in pairs if control == baseline}


def machines(results: StudyResults) -> dict[str, dict[int, str]]:
    """label -> {seed: GPU or, without one, processor, and the precision of the finished run}. A run that was resumed on
    another machine has one of its own, named after both."""
    found: dict[str, dict[int, str]] = {label: {} for label in results.labels}
    for run in results.done.itertuples():
        parts = part_records(results.environments[run.run_id])
        found[run.label][run.seed] = ", then ".join(dict.fromkeys(map(_machine, parts)))
    return found


def _machine(record: Mapping) -> str:
    device = record.get("device")
    return f"{record.get('processor') if device == 'cpu' else device} in {record.get('precision')}"


def finished_history(results: StudyResults) -> pd.DataFrame:
    """The history of finished runs only; a curve that stops early would distort the mean."""
    return results.history[results.history["run_id"].isin(results.done["run_id"])]


def early_training(results: StudyResults) -> set[str]:
    """The networks in early training, by the rule's definition, from the means over their finished runs."""
    history = finished_history(results)
    found = set()
    for label, rows in history.groupby("label"):
        curve = rows.groupby("epoch")["train_accuracy"].mean().sort_index()
        rise = curve.iloc[-1] - (curve.iloc[-2] if len(curve) > 1 else 0)
        if curve.iloc[-1] < rule.EARLY_BELOW or rise > rule.EARLY_RISE:
            found.add(label)
    return found


def independent_sd(results: StudyResults) -> float | None:
    """`stats.independent_sd` of the study's finished runs."""
    right = results.predictions.assign(right=results.predictions["true"] == results.predictions["predicted"])
    networks = (rows.groupby("seed")["right"] for _, rows in right.groupby("label", sort=False))
    return stats.independent_sd([[run.to_numpy() for _, run in runs] for runs in networks])
