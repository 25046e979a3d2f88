"""The YAML files: keys that the constructors take, a comment for every value, no code to import."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from rlmem.cli.hydra_errors import compose, leaves
from rlmem.cores.base import registry as cores
from rlmem.registry import REQUIRED, Registry, options_of

CONFIGS = Path(__file__).parents[1] / "rlmem" / "configs"
ALL = sorted(CONFIGS.rglob("*.yaml"))


def registry(group: str) -> Registry[Any]:
    if group == "core":
        return cores
    if group == "env":
        from rlmem.envs.base import registry as envs

        return envs
    from rlmem.algos.base import registry as algos

    return algos


def members(group: str) -> list[Path]:
    return sorted((CONFIGS / group).glob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    """The options of a member of a group, with those of the members that it is built on."""
    options: Any = OmegaConf.to_container(OmegaConf.load(path))
    under = [load(path.with_name(f"{name}.yaml")) for name in options.pop("defaults", [])]
    return {key: value for each in [*under, options] for key, value in each.items()}


NAMED = [*members("core"), *members("env"), *members("algo")]


@pytest.mark.parametrize("path", NAMED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_keys_are_options_of_what_they_configure(path):
    options = load(path)
    allowed = registry(path.parent.name).options(options.pop("name"))
    assert set(options) <= set(allowed)


@pytest.mark.parametrize("path", members("core"), ids=lambda path: path.stem)
def test_every_option_of_a_core_is_shown(path):
    options = load(path)
    allowed = cores.options(options["name"])
    # The sizes come from the policy: they are one number at the top level.
    assert set(options) == {"name"} | set(allowed) - {"input_size", "output_size"}
    cores.make(options.pop("name"), input_size=8, **options)


@pytest.mark.parametrize("path", NAMED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_values_are_the_defaults_of_what_they_configure(path):
    options = load(path)
    defaults = registry(path.parent.name).options(options.pop("name"))
    # The command line and a program that calls the constructor must get the same.
    for key, value in options.items():
        default = lists(defaults[key])
        if default is not REQUIRED:
            # The YAML's {} is the constructor's None: a mutable default would be shared.
            assert value == default or (value, default) == ({}, None), key


def lists(value: Any) -> Any:
    """Tuples as lists, which YAML has instead."""
    return [lists(each) for each in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("group", ["core", "env", "algo"])
def test_every_member_of_a_registry_has_a_file(group):
    assert set(registry(group).names()) <= {path.stem for path in members(group)}


@pytest.mark.parametrize("path", members("tuned"), ids=lambda path: path.stem)
def test_what_is_tuned_are_options_of_a_task_and_an_algorithm(path):
    if path.stem == "none":
        assert not OmegaConf.load(path)
        return
    env, _, algo = path.stem.rpartition("-")
    known = dict(leaves(compose("train", [f"env={env}", f"algo={algo}", "tuned=none"])))
    tuned = OmegaConf.load(path)
    assert isinstance(tuned, DictConfig)
    for key, value in leaves(tuned):
        # To say a default again would be to say it in two places.
        assert value != known[key], key


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_value_has_a_comment(path):
    first, *lines = path.read_text().splitlines()
    assert re.match(r"# \S.{10,}", first), "the first line says what the file is"
    for line in lines:
        # `key:` and `- item:` alone are headings of what follows.
        if line.strip() and not re.match(r"\s*(- )?\w+:$", line):
            assert re.search(r"# \S", line), f"no comment: {line}"


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_no_file_can_import_anything(path):
    text = path.read_text()
    assert not re.search(r"\b_target_\b", text)
    assert "!!python" not in text


def test_options_of_policies_are_those_of_their_constructors():
    from rlmem.policies.policy import Policy, Trunk

    options = load(CONFIGS / "policy" / "default.yaml")
    defaults = {**options_of(Trunk), **options_of(Policy)}
    for key, value in options.items():
        assert value == defaults[key] or (value, defaults[key]) == ({}, None), key


def test_the_comment_of_encoder_names_all_encoders():
    from rlmem.policies.encoders import names

    text = (CONFIGS / "policy" / "default.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("encoder: "))
    assert all(re.search(rf"\b{name}\b", line) for name in names()), line
