"""Random command lines, options and run folders, for `fuzz_commands`."""

from __future__ import annotations

import contextlib
import io
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from rlmem.cli.help import options as options_in
from rlmem.cli.main import COMMANDS
from rlmem.cli.main import main as rlmem
from rlmem.cli.third_party import CONFIGS

TEXT = """0 -1 nan inf -inf 1e12 1e30 -1e12 text [] [-1] [1,2] {} {a:1} null true '' 1.5 1e-300
5e-324 9223372036854775808 ünï ${oc.select:zzz} ${seed} ??? meta [null] 1,2 1 2 -0.5 [[1]] 0x10
1_000"""
VALUES = TEXT.split()
NUMBER_TEXT = "0 -1 1 2 3 7 1e12 1e18 2147483648 9223372036854775807 nan inf -0.5 0.5 1.0 2.5"
NUMBERS = NUMBER_TEXT.split()
# Found by hand.
KNOWN = [
    line.split(" ")
    for line in """train =1
train =null
train policy=1
train --resolve
train algo.target_kl=text
train resume={}
train run={}
eval run={}
train threads=1e30
train seed=${oc.select:zzz}
train core=stack core.options=3
train env.max_episode_steps=[-1]
train env=gym env.max_episode_steps=[-1]
train algo.norm_adv={a:1}
train algo.clip_value=-3
train algo.clip_coef=nan
train algo.adam_eps=inf
train algo.norm_adv=null
train ++totl_steps=5
train ++algo.gama=5
train run_dir=""
train device=5e-324
train device=meta
train algo.learning_rate=nan
train layers=1e12
train hidden_size=60000
train hidden_size=1e12
train num_envs=1e12
train seed=1e30
train --cfg job --resolve
train --cfg job -p core
train --cfg job -p nope
train --info
train --info nope
train --config-dir
train -m
train -m seed=
list list
new core
new core 1
new core a/b
plot
compare
report
report [[1]] out=
bench seeds=x
bench dir=[[1]]
diagnose dir=[[1]] questions=x
compare ~nobody
train -- --cfg
export run=given to=x""".splitlines()
] + [["train", f"run_dir={'x' * 300}"], ["train", f"run_dir={'x/' * 3000}y"], ["train", "\0"]]
FLAG_TEXT = "-m --resolve --cfg --cfg=job -c -p --info --hydra-help --config-dir -cd --foo - --"
FLAGS = FLAG_TEXT.split()
JUNK_TEXT = r"= == + ++ ~ ~~ @ : :: , [ ] { } ' \ ${ ${} ${a ${oc.env:X} \\ / // . .. ~x $ %"
JUNK = [*JUNK_TEXT.split(), '"', "\t", ""]
ENVS = ["popgym-repeat", "popgym-bandit", "tmaze-passive", "meta-bandit", "copy", "gym", "masked"]
ENVS += [
    "popgym-position-only-pendulum",
    "meta-dark-room",
    "memory-chain",
    "mqar",
    "popgym-battleship",
]
SMALL_TEXT = """threads=1 num_envs=2 hidden_size=8 total_steps=640 eval_episodes=1
eval_max_steps=30 log.tensorboard=false log.progress=false"""
SMALL = SMALL_TEXT.split()
REPLAY = ["algo.replay.capacity=2000", "algo.replay.batch_size=2", "algo.replay.length=8"]
SMALL_ALGO = {
    "ppo": ["algo.num_steps=8", "algo.num_minibatches=2", "algo.num_epochs=1"],
    "pqn": ["algo.num_steps=8", "algo.num_minibatches=2", "algo.num_epochs=1"],
    "sac": [*REPLAY, "algo.num_steps=80", "algo.learning_starts=0"],
    "r2d2": [*REPLAY, "algo.num_steps=80", "algo.learning_starts=0"],
    "amago": [*REPLAY, "algo.num_steps=80", "algo.learning_starts=0", "algo.num_updates=1"],
    "dt": ["algo.dataset=given-data", "algo.batch_size=2", "algo.length=8", "algo.num_updates=1"],
    "ad": ["algo.dataset=given-data", "algo.batch_size=2", "algo.length=8", "algo.num_updates=1"],
}


def setup(folder: Path) -> None:
    """Train the run `given-run` in `folder` and record `given-data`."""
    small = [*SMALL, *SMALL_ALGO["ppo"], "run_dir=given-run", "record=given-data"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = rlmem(["train", *small, "env=tmaze-passive", "core=gru"])
    assert code == 0


def keys(command: str) -> list[str]:
    """All options of a command, with those of all members of its groups."""
    path = CONFIGS / f"{command}.yaml"
    if not path.exists():
        path = CONFIGS / "command" / f"{command}.yaml"
    found = [option.key for option in options_in(path)] if path.exists() else []
    if command == "train":
        for group in ("core", "env", "algo", "policy", "log"):
            files = (CONFIGS / group).glob("*.yaml")
            found += [f"{group}.{o.key}" for file in sorted(files) for o in options_in(file)]
            found.append(group)
    return sorted(set(found))


def command_lines(rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Random command lines; a few of them are correct."""
    yield from map(list, KNOWN)
    known = {command: keys(command) for command in COMMANDS}
    while True:
        command = rng.choice([*COMMANDS, "train", "train", "train", "eval", rng.choice(JUNK)])
        own = known.get(command) or known["train"]
        tokens = [_token(rng, own) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        if command in ("eval", "play", "export") and rng.random() < 0.5:
            tokens.append("run=given-run")
        tokens += [*SMALL, *SMALL_ALGO["ppo"]] if command == "train" else []
        # The last value of a key counts: random tokens come in any order.
        rng.shuffle(tokens)
        yield [command, *tokens]


def _token(rng: random.Random, keys: list[str]) -> str:
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(FLAGS)
    if kind < 0.25:
        return "".join(rng.choice([*JUNK, "a", "1"]) for _ in range(rng.randint(1, 4)))
    key = rng.choice(keys)
    if kind < 0.4:  # misspelt
        place = rng.randrange(len(key))
        key = key[:place] + rng.choice(["", ".", "x", "=", "@"]) + key[place + 1 :]
    value = rng.choice([*VALUES, *JUNK, "", rng.choice(keys), "x" * 300, "a:b", "./a.py:B", "a-v0"])
    return rng.choice(["", "", "", "+", "++", "~"]) + f"{key}={value}"


def options(rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Trainings with one option out of range, of all groups in turn."""
    choices = {"core": sorted(p.stem for p in (CONFIGS / "core").glob("*.yaml"))}
    choices |= {"env": ENVS, "algo": list(SMALL_ALGO)}
    top = [option for option in options_in(CONFIGS / "train.yaml") if option.key != "resume"]
    while True:
        member = {group: rng.choice(names) for group, names in choices.items()}
        group = rng.choice(["core", "env", "algo", "algo", "policy", "log", "train"])
        if group == "train":
            option = rng.choice(top)
        else:
            file = CONFIGS / group / f"{member.get(group, 'default')}.yaml"
            own = [option for option in options_in(file) if option.key != "name"]
            option = rng.choice(own or top)
            option = option._replace(key=f"{group}.{option.key}") if own else option
        number = re.match(r"-?[\d.]", option.default) and rng.random() < 0.7
        value = rng.choice(NUMBERS if number else VALUES)
        chosen = [f"{group}={name}" for group, name in _plausible(member, group).items()]
        small = [*SMALL, *SMALL_ALGO[member["algo"]]]
        yield ["train", *chosen, *small, f"{option.key}={value}"]


def _plausible(member: dict[str, str], group: str) -> dict[str, str]:
    """The members, with those not in question replaced by ones that always fit together."""
    fitting = {"env": "tmaze-passive", "core": "gru", "algo": "ppo"}
    if group == "algo":
        return {**fitting, "algo": member["algo"]}
    member["algo"] = "ppo"
    return {**fitting, group: member[group]} if group in fitting else fitting


def broken_folders(rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Commands on copies of a run whose configuration or metrics are cut or changed."""
    commands = [
        "eval run=broken episodes=1",
        "train resume=broken total_steps=1280",
        "plot broken",
        "report broken",
    ]
    commands += ["play run=broken", "compare broken", "export run=broken to=a.rlmem"]
    while True:
        shutil.rmtree("broken", ignore_errors=True)
        shutil.copytree("given-run", "broken", symlinks=True)
        _break(rng, Path("broken"))
        yield rng.choice(commands).split()


def _break(rng: random.Random, run: Path) -> None:
    name = rng.choice(["config.yaml", "config.yaml", "metrics.csv", "agent.json", "tasks.json"])
    path = run / name
    text = path.read_text() if path.exists() else "{}"
    lines = text.splitlines()
    kind = rng.randrange(8)
    if kind == 0:  # a missing line
        del lines[rng.randrange(len(lines))]
        path.write_text("\n".join(lines))
    elif kind == 1:  # cut
        path.write_text(text[: rng.randrange(len(text) + 1)])
    elif kind == 2:  # bytes that are no UTF-8
        place = rng.randrange(len(text) + 1)
        path.write_bytes(text[:place].encode() + b"\xff\xfe\0" + text[place:].encode())
    elif kind == 3:  # a folder
        path.unlink(missing_ok=True)
        path.mkdir()
    elif kind == 4:
        path.unlink(missing_ok=True)
    elif kind in (5, 6):  # another value
        place = rng.randrange(len(lines))
        value = rng.choice(VALUES)
        lines[place] = re.sub(r"(:|,) *[^:,]*$", rf"\1 {value}", lines[place])
        path.write_text("\n".join(lines))
    else:
        path.write_text(rng.choice(VALUES))
