import pytest

from cyclescan.common.errors import InputError
from cyclescan.config import Config
from cyclescan.config.presets import PRESETS, preset


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
    with pytest.raises(InputError, match="knee, demo, cyclescan, gradient_consistency"):
        preset("bear")


def test_presets_are_as_the_reports_have_them():
    seed, second = preset("cyclescan"), preset("gradient_consistency")
    assert (seed.adversarial_loss, seed.lambda_cycle, seed.lambda_identity) == ("bce", 10.0, 10.0)
    assert seed.patch_shape == (32, 256, 256)
    assert (second.lambda_cycle, second.lambda_gradient_consistency) == (3.0, 0.3)
    assert seed.lambda_pair == second.lambda_pair == 0.0
