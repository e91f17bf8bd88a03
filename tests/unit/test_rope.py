"""The options for other rotations of positions: valid values, and what the engine gets."""

import struct

import pytest

from pipeinfer_cli.engine.rope import OWN_ROPE, RopeConfig
from pipeinfer_cli.errors import UserError


def single(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def native(**fields):
    rope = RopeConfig(**fields).native()
    return {name: getattr(rope, name) for name, *_ in rope._fields_}


OWN = {
    "scaling": -1,
    "freq_base": 0.0,
    "freq_scale": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": -1.0,
    "yarn_beta_fast": -1.0,
    "yarn_beta_slow": -1.0,
    "yarn_orig_ctx": 0,
}


def test_without_options_all_is_as_the_gguf_has_it():
    assert native() == OWN
    assert OWN_ROPE.record() == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"scaling": "none"}, {"scaling": 0}),
        ({"scaling": "linear", "scale": 4.0}, {"scaling": 1, "freq_scale": 0.25}),
        ({"scaling": "yarn", "yarn_orig_ctx": 512}, {"scaling": 2, "yarn_orig_ctx": 512}),
        ({"scale": 3.0}, {"freq_scale": single(1 / 3)}),
        ({"freq_base": 5e6, "freq_scale": 0.3}, {"freq_base": 5e6, "freq_scale": single(0.3)}),
        ({"freq_base": 0.0, "yarn_ext_factor": -1.0}, {}),  # as the GGUF has them
        ({"yarn_ext_factor": 0.0}, {"yarn_ext_factor": 0.0}),
        ({"yarn_attn_factor": 2.0}, {"yarn_attn_factor": 2.0}),
        ({"yarn_beta_slow": 0.5}, {"yarn_beta_slow": 0.5}),
        ({"yarn_beta_fast": 64.0}, {"yarn_beta_fast": 64.0}),
    ],
)
def test_the_engine_gets_what_llama_cpp_would(fields, expected):
    assert native(**fields) == {**OWN, **expected}
    assert RopeConfig(**fields).record() == fields


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -2.0, 1e300, 1e-300])
@pytest.mark.parametrize(
    "name",
    [
        *("scale", "freq_base", "freq_scale"),
        *("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_slow", "yarn_beta_fast"),
    ],
)
def test_what_is_no_positive_number_is_refused(name, value):
    option = "--" + ("" if name.startswith("yarn") else "rope_") + name
    with pytest.raises(UserError, match=option.replace("_", "-")):
        RopeConfig(**{name: value})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scaling": "longrope"}, "--rope-scaling 'longrope': give one of none, linear, yarn"),
        ({"scale": 2.0, "freq_scale": 0.5}, "give one of them"),
        ({"scale": 0.0}, "--rope-scale 0: give a finite number above 0"),
        ({"yarn_attn_factor": 0.0}, "--yarn-attn-factor 0"),
        ({"yarn_orig_ctx": -1}, "--yarn-orig-ctx -1"),
        ({"yarn_orig_ctx": 2**31}, "--yarn-orig-ctx"),
    ],
)
def test_other_values_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        RopeConfig(**fields)
