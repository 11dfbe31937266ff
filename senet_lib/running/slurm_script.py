"""The script of a Slurm job array: what each of its jobs executes, and with which options of sbatch."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from senet_lib.errors import UserError

RUNS = "runs.txt"  # beside the script: per line a run's id and hash; the array index is the line, from 0
LEAD = 120  # seconds before the time limit at which a run is told to save its state
ATTEMPTS = 3  # in a row without a new checkpoint, as after a slow start; then the time limit is too short
SHARE_OF_LIMIT = 0.25  # of a short time limit, at most, for that lead; Slurm's signal may come 60 s before it
STARTED = re.compile(r"job (\S+) on (\S+)")  # the first line that a job writes to its log, also after a requeue
ENDED = re.compile(r"job (\S+): exit code (\d+)")  # its last line, unless it was killed or is requeued
OURS = ("array", "output", "error", "open-mode", "wrap", "wait", "test-only", "parsable")  # not the user's
SHORT = {"a": "array", "o": "output", "e": "error", "W": "wait", "t": "time", "c": "cpus-per-task", "G": "gpus"}

TEMPLATE = """\
#!/bin/bash
# Runs of the study {study}: one per line of {runs}, the array index picks the line.
{options}

node=${{SLURMD_NODENAME:-$(hostname)}}
job=${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}
echo "job $job on $node"
end() {{ echo "job $job: exit code $1"; exit "$1"; }}
line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {runs_file})
run=${{line% *}}
hash=${{line##* }}
fail() {{ echo "$run: failed: $1"; end 1; }}
cd {root} || fail "the project folder "{root}" is not on $node; all nodes must have it at this place"
test -x {python} || fail "the interpreter "{python}" is not on $node; all nodes must have it at this place"
{variables}

# SIGUSR1 is Slurm's warning before the time limit, SIGTERM comes from scancel or before preemption. Both make the run
# save its state and end; only after the warning does the job requeue itself.
forward() {{ stopped=1; test -z "$child" || kill -TERM "$child" 2>/dev/null; }}
trap 'warned=1; forward' USR1
trap forward TERM
checkpoint() {{ stat --format=%y {runs_folder}/"$run"/checkpoint*.pt 2>/dev/null; }}
before=$(checkpoint)
saved="close to the time limit"
futile="the time limit came before a new checkpoint"
test -z "$stopped" || end 143

{command} &
child=$!
wait "$child"
code=$?
while test -n "$stopped"; do  # a signal interrupts `wait`
    stopped=
    wait "$child"
    again=$?
    test "$again" = 127 || code=$again  # 127: the run had already ended
done

if test "$code" = 143 && test -n "$warned"; then
    if test "$(checkpoint)" = "$before"; then
        times=$(tac {log}"$job".log | sed "/^$saved/q" | grep --count "^$futile")
        test "$times" -lt {attempts} || fail "$futile, {attempts} times before; give more in SLURM_OPTIONS"
        echo "$futile: the job is requeued"
    else
        echo "$saved: the job is requeued"
    fi
    scontrol requeue "$job" && exit 0
fi
end "$code"
"""


def user_options(text: str) -> list[str]:
    """The options in SLURM_OPTIONS, each with its value in one text. Raises UserError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"SLURM_OPTIONS is {text[:60]}: {error}; close the quotation") from None
    options: list[str] = []
    for word in words:
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            options.append(f"{name}={shlex.quote(value)}" if equals else word)
        elif options and not re.search("[= ]", options[-1]):
            options[-1] += f" {shlex.quote(word)}"
        else:
            raise UserError(f"SLURM_OPTIONS has {word[:40]!r}, which is not an option; write it as --option=value")
    for option in options:
        if not option.isprintable():
            raise UserError(f"SLURM_OPTIONS has a line break in {option[:40]!r}; write it without")
        if (name := option_name(option)) in OURS:
            raise UserError(f"SLURM_OPTIONS must not contain {name}, which the job array of the study sets itself")
    return options


def option_name(option: str) -> str:
    """'time' for --time=5, '--time 5', -t5 and '-t 5'."""
    if option.startswith("--"):
        return re.split("[= ]", option[2:])[0]
    return SHORT.get(option[1:2], option[1:2])


def option_value(options: Sequence[str], name: str) -> str | None:
    """The last value given for an option."""
    found = None
    for option in options:
        if option_name(option) == name:
            found = re.sub(r"^(--[a-z-]+[= ]?|-\w[= ]?)", "", option).strip("'\"")
    return found


def limit_seconds(value: str | None) -> float | None:
    """The seconds of sbatch's --time: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s; None if there is no such limit."""
    days, dash, rest = (value or "").rpartition("-")
    try:
        numbers = [int(part) for part in rest.split(":")]
        if dash:
            hours, minutes, seconds = [*numbers, 0, 0][:3]
        elif len(numbers) == 3:
            hours, minutes, seconds = numbers
        else:
            hours, (minutes, seconds) = 0, [*numbers, 0][:2]
        return (int(days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds or None  # 0: no limit
    except ValueError:  # UNLIMITED, or what sbatch refuses
        return None


def array_options(
    study: str, place: Path, count: int, jobs: int | None, threads: int, gpus: int, given: Sequence[str]
) -> list[str]:
    """The options of an array of `count` jobs, `jobs` at a time, with logs in `place`; those `given` come last, so
    that they count."""
    limit = limit_seconds(option_value(given, "time"))
    lead = LEAD if limit is None else int(min(LEAD, SHARE_OF_LIMIT * limit))
    ours = [
        f"--job-name={shlex.quote(study)}",
        f"--array=0-{count - 1}" + (f"%{jobs}" if jobs else ""),
        f"--output={shlex.quote(str(place).replace('%', '%%') + '/%A_%a.log')}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{lead}",
        "--ntasks=1",
        f"--cpus-per-task={threads}",
    ]
    return ours + ([f"--gres=gpu:{gpus}"] if gpus else []) + list(given)


def script(
    study: str,
    place: Path,
    root: Path,
    options: Sequence[str],
    words: Sequence[str],
    variables: Mapping[str, str],
) -> str:
    """The text of the script. words: those of a run's command, the interpreter first, quoted for the shell; every job
    has the variables $run and $hash for its own run. place: its folder, in `<results>/<study>/slurm/`."""
    return TEMPLATE.format(
        study=study,
        options="\n".join(f"#SBATCH {option}" for option in options),
        runs=RUNS,
        runs_file=shlex.quote(str(place / RUNS)),
        runs_folder=shlex.quote(str(place.parent.parent / "runs")),
        root=shlex.quote(str(root)),
        log=shlex.quote(f"{place}/"),
        attempts=ATTEMPTS - 1,
        python=words[0],
        variables="\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())),
        command=" ".join(words),
    )
