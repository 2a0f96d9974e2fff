import dataclasses
from pathlib import Path

import pytest

from cyclescan import train
from cyclescan.common.errors import InputError
from cyclescan.config import Config, fields, reference
from cyclescan.config.presets import PRESETS, preset

ROOT = Path(__file__).parents[2]


def test_settings_are_parsed_by_type():
    config = Config().with_settings(["patch_shape=16,32,32", "augment=false", "lambda_cycle=3", "batch_size=2"])
    assert config.patch_shape == (16, 32, 32)
    assert config.augment is False
    assert config.lambda_cycle == 3.0
    assert config.batch_size == 2


def test_dictionary_round_trip():
    for _, config in PRESETS.values():
        assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("nonsense=1", "no setting 'nonsense'"),
        ("batch_size", "write KEY=VALUE"),
        ("batch_size=two", "a whole number"),
        ("batch_size=0", "at least 1"),
        ("patch_shape=10,64,64", "multiple of 16"),
        ("patch_shape=64,64", "three numbers"),
        ("precision=float8", "float32 or mixed_float16"),
        ("lambda_cycle=-1", "at least 0"),
        ("lambda_cycle=nan", "finite"),
        ("augment=maybe", "true or false"),
        ("warmup=2", "between 0 and 1"),
        ("pair_share=1.1", "between 0 and 1"),
        ("discriminator_dropout=1", "[0, 1)"),
        ("beta_1=1", "[0, 1)"),
        ("learning_rate=0", "positive"),
        ("learning_rate=nan", "positive"),
        ("pool_size=-1", "at least 0"),
        ("generator_kernel=0", "at least 1"),
        ("back_sharpening=-1", "at least 0"),
        ("lambda_detail=-1", "at least 0"),
        ("texture=ciss", "texture is 'ciss'; allowed is none or a or b or both"),
    ],
)
def test_wrong_settings_are_named(setting, sentence):
    with pytest.raises(InputError) as error:
        Config().with_settings([setting])
    assert sentence in str(error.value)


def test_generators_need_something_to_learn_from():
    with pytest.raises(InputError, match=r"lambda_adversarial, lambda_cycle, .* are all 0"):
        Config().with_settings(["lambda_adversarial=0", "lambda_cycle=0", "lambda_r1=1"])
    with pytest.raises(InputError, match="are all 0"):
        preset("knee").with_settings(
            ["lambda_adversarial=0", "lambda_pair=0", "lambda_detail=0", "texture=none"]
        )  # until back_from


def test_detail_is_compared_with_that_of_pairs():
    with pytest.raises(InputError, match=r"lambda_detail is 0\.3 and lambda_pair 0; .* lambda_pair must be positive"):
        preset("knee").with_settings(["lambda_pair=0"])
    with pytest.raises(InputError, match=r"texture is 'a' and lambda_pair 0; .* lambda_pair must be positive"):
        preset("knee").with_settings(["lambda_pair=0", "lambda_detail=0"])
    preset("knee").with_settings(["lambda_pair=0", "lambda_detail=0", "texture=none"])


@pytest.mark.parametrize(
    ("texture", "directions"), [("none", []), ("a", ["b2a"]), ("b", ["a2b"]), ("both", ["a2b", "b2a"])]
)
def test_texture_is_that_of_generated_volumes_of_a_domain(texture, directions):
    config = Config(lambda_pair=1.0, texture=texture)
    assert [d for d in ("a2b", "b2a") if config.carries_texture(d)] == directions
    with pytest.raises(ValueError, match="average_a2b"):
        config.carries_texture("average_a2b")


def test_unknown_preset_lists_the_known():
    with pytest.raises(InputError, match="knee, demo, lesions, cyclescan, gradient_consistency"):
        preset("bear")


def test_presets_are_as_the_reports_have_them():
    seed, second = preset("cyclescan"), preset("gradient_consistency")
    assert (seed.adversarial_loss, seed.lambda_cycle, seed.lambda_identity) == ("bce", 10.0, 10.0)
    assert seed.patch_shape == (32, 256, 256)
    assert (second.lambda_cycle, second.lambda_gradient_consistency) == (3.0, 0.3)
    assert seed.lambda_pair == second.lambda_pair == 0.0


def test_the_preset_for_lesions_is_knee_with_another_network_and_blobs():
    knee, lesions = preset("knee").to_dict(), preset("lesions").to_dict()
    differing = {key for key in knee if knee[key] != lesions[key]}
    assert differing == {"generator_levels", "transplants", "fluid_blobs", "lambda_blob"}


def test_every_setting_says_what_it_is():
    for field in dataclasses.fields(Config):
        about = fields.of(field)
        assert len(about.help.split()) > 2 and not about.help.endswith("."), field.name
        is_number = type(field.default) in (int, float)
        assert bool(about.bounds) == (is_number and field.name != "accumulate"), field.name  # that divides batch_size
        assert bool(about.choices) == isinstance(field.default, str), field.name
        about.check(field.name, field.default)


def test_settings_of_earlier_versions_keep_their_names_and_order():
    """config.json and the cards of exported models are written in this order."""
    assert list(Config().to_dict())[:5] == [
        "patch_shape",
        "batch_size",
        "augment",
        "generator_levels",
        "generator_filters",
    ]
    assert list(Config().to_dict())[-4:] == ["average_decay", "precision", "accumulate", "rematerialize"]


def test_the_page_of_settings_is_current():
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert page == reference.page(), "run `python -m cyclescan.config.reference > docs/reference/settings.md`"


def test_help_lists_the_settings_by_group(capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    titles = [text.index(f"\n  {group.title}: ") for group in fields.Group]
    assert titles == sorted(titles)
    for field in dataclasses.fields(Config):
        place = text.index(f"\n    {field.name}={reference.text(field.default)}\n")
        group = list(fields.Group).index(fields.of(field).group)
        assert titles[group] < place < [*titles[1:], len(text)][group], field.name
    assert "weight of back-translation: " in text and "(instance, spectral)" in text


def test_values_are_written_as_set_takes_them():
    for _, config in PRESETS.values():
        written = [f"{name}={reference.text(value)}" for name, value in config.to_dict().items()]
        assert Config().with_settings(written) == config


@pytest.mark.parametrize(
    "settings", [["transplants=2"], ["lambda_blob=1"], ["fluid_blobs=1", "lambda_blob=1", "lambda_pair=0"]]
)
def test_blobs_their_weight_and_pairs_go_together(settings):
    with pytest.raises(InputError, match=r"transplants is \d.*blobs are planted into pairs"):
        Config(lambda_pair=1.0).with_settings(settings)
    assert Config(lambda_pair=1.0, transplants=1, lambda_blob=2.0).lambda_blob == 2.0
