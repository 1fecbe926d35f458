"""Whole enhancements of rendered products: what comes out, why, and with which verdict."""

import io
import struct
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from imgpipe_dagster.demo.products import Backdrop, Defect, ProductPhoto, degrade, render_product
from imgpipe_dagster.imaging.adjust import correct_light, denoise, sharpen
from imgpipe_dagster.imaging.enhance import enhance, judge
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode, Step
from imgpipe_dagster.imaging.quality import score


@pytest.fixture(scope="module")
def plain() -> ProductPhoto:
    return render_product(9003, width=800, height=640)


@pytest.fixture(scope="module")
def cluttered() -> ProductPhoto:
    return render_product(9004, width=800, height=640, backdrop=Backdrop.CLUTTERED)


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def steps(result) -> list[Step]:
    return [planned.step for planned in result.steps]


@pytest.mark.parametrize("quality", [8, 15, 30])
def test_what_compression_has_destroyed_is_seen_by_a_person_however_well_the_result_scores(plain, quality):
    damaged = cv2.imencode(".jpg", plain.image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    good = cv2.imencode(".jpg", plain.image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    assert "source_compressed" in enhance(damaged, EnhancementConfig()).review_reasons
    assert "source_compressed" not in enhance(good, EnhancementConfig()).review_reasons


@pytest.mark.parametrize("defect", [Defect.BLURRED, Defect.JPEG])
def test_a_spoilt_photograph_is_never_published_without_a_person(defect):
    spoilt = degrade(render_product(9109, width=1000, height=800).image, defect, 9109)
    assert {"source_blurry", "source_compressed"} & set(enhance(spoilt, EnhancementConfig()).review_reasons)


def test_a_product_that_goes_on_beyond_the_picture_is_seen_by_a_person(plain: ProductPhoto):
    bottom = plain.box[3]
    for height, reasons in ((bottom + 12, ()), (bottom - 40, ("product_cut_off",))):
        result = enhance(np.ascontiguousarray(plain.image[:height]), EnhancementConfig())
        assert result.background_replaced
        assert result.review_reasons == reasons, height


def test_a_background_that_is_kept_is_measured_by_the_rules_of_the_profile(cluttered: ProductPhoto):
    config = EnhancementConfig(background="keep", profile="amazon_main")
    assert "profile_background" in enhance(cluttered.image, config).review_reasons
    white = np.where(cluttered.alpha[..., None] > 0, cluttered.image, np.uint8(255))
    assert "profile_background" not in enhance(white, config).review_reasons


def test_the_score_is_that_of_the_file(cluttered: ProductPhoto):
    config = EnhancementConfig(background="keep")
    usual, strong = (enhance(cluttered.image, replace(config, target_kb=kb)) for kb in (500, 40))
    assert strong.after.score == score(decoded(strong.encoded.data), strong.alpha).score
    assert strong.after.score < usual.after.score - 5


def test_a_cut_out_that_fills_its_file_is_no_product_that_goes_on_beyond_it(plain: ProductPhoto):
    left, top, right, bottom = plain.box
    cut_out = np.dstack([plain.image, plain.alpha])[top + 40 : bottom, left:right]
    file = cv2.imencode(".png", np.ascontiguousarray(cut_out))[1].tobytes()
    assert enhance(file, EnhancementConfig()).review_reasons == ()


def test_full_gives_a_square_white_picture_within_the_target(cluttered: ProductPhoto):
    result = enhance(cluttered.image, EnhancementConfig(mode=Mode.FULL, target_kb=200), boxes=[cluttered.box])
    assert result.size == (1500, 1500)
    assert result.background_replaced
    assert steps(result) == list(Step)
    assert (result.image[result.alpha == 0] == 255).all()
    assert len(result.encoded.data) <= 200 * 1024
    published = decoded(result.encoded.data)
    assert (published[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    assert result.after.score > result.before.score - 2
    assert result.review_reasons == ()


def test_full_does_not_cut_the_product_off(plain: ProductPhoto):
    result = enhance(plain.image, EnhancementConfig(mode=Mode.FULL, margin=0.05))
    rows, columns = np.flatnonzero((result.alpha > 127).any(1)), np.flatnonzero((result.alpha > 127).any(0))
    spans = (rows[-1] - rows[0] + 1) / 1500, (columns[-1] - columns[0] + 1) / 1500
    assert max(spans) == pytest.approx(0.9, abs=0.01)
    found = spans[1] / spans[0]
    x1, y1, x2, y2 = plain.box
    assert found == pytest.approx((x2 - x1) / (y2 - y1), rel=0.04)


def test_the_same_picture_and_config_give_the_same_bytes(cluttered: ProductPhoto):
    config = EnhancementConfig(mode=Mode.FULL)
    first = enhance(cluttered.image, config, boxes=[cluttered.box])
    assert enhance(cluttered.image, config, boxes=[cluttered.box]).encoded.data == first.encoded.data


def test_an_already_good_picture_passes_untouched(plain: ProductPhoto):
    good = enhance(plain.image, EnhancementConfig(mode=Mode.FULL)).image
    again = enhance(good, EnhancementConfig())
    assert again.steps == ()
    assert not again.background_replaced
    np.testing.assert_array_equal(again.image, good)


def test_auto_says_why_it_takes_each_step(plain: ProductPhoto):
    result = enhance(degrade(plain.image, Defect.DARK), EnhancementConfig())
    whys = {planned.step: planned.why for planned in result.steps}
    assert {Step.BACKGROUND, Step.LIGHT, Step.UPSCALE} <= set(whys)
    assert whys[Step.UPSCALE] == "800 px is under 1500"
    assert whys[Step.BACKGROUND] == "the background is not white"
    assert result.after.score > result.before.score + 20


@pytest.mark.parametrize("mode", [Mode.SHARPEN, Mode.DENOISE])
def test_a_single_step_mode_changes_pixels_and_not_the_size(plain: ProductPhoto, mode: Mode):
    result = enhance(plain.image, EnhancementConfig(mode=mode))
    assert steps(result) == [Step(mode.value)]
    assert result.size == (800, 640)
    assert (result.image != plain.image).any()
    assert result.cutout is None


def test_upscale_doubles(plain: ProductPhoto):
    assert enhance(plain.image, EnhancementConfig(mode=Mode.UPSCALE)).size == (1600, 1280)


def test_optimize_only_encodes(plain: ProductPhoto):
    result = enhance(plain.image, EnhancementConfig(mode=Mode.OPTIMIZE, target_kb=40))
    np.testing.assert_array_equal(result.image, plain.image)
    assert len(result.encoded.data) <= 40 * 1024


def test_a_transparent_background_alone_keeps_the_original_size(cluttered: ProductPhoto):
    config = EnhancementConfig(steps=(Step.BACKGROUND,), background="transparent", target_kb=None)
    pixels = decoded(enhance(cluttered.image, config, boxes=[cluttered.box]).encoded.data)
    assert pixels.shape == (640, 800, 4)
    found, wanted = pixels[..., 3] > 127, cluttered.alpha > 127
    assert (found & wanted).sum() / (found | wanted).sum() > 0.9
    inside = (pixels[..., 3] == 255) & wanted
    np.testing.assert_array_equal(pixels[inside, :3], cluttered.image[inside])


def test_another_colour_fills_the_background(plain: ProductPhoto):
    result = enhance(plain.image, EnhancementConfig(mode=Mode.FULL, background="#102030"))
    assert (result.image[result.alpha == 0] == (0x30, 0x20, 0x10)).all()


def test_an_untrusted_mask_keeps_the_background_and_goes_to_review():
    noise = np.random.default_rng(2).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    result = enhance(cv2.GaussianBlur(noise, (0, 0), 4), EnhancementConfig(steps=(Step.BACKGROUND,)))
    assert not result.background_replaced
    assert result.steps == ()
    assert any(reason.startswith("mask_") for reason in result.review_reasons)


def test_a_target_that_cannot_be_reached_goes_to_review(cluttered: ProductPhoto):
    result = enhance(cluttered.image, EnhancementConfig(mode=Mode.OPTIMIZE, target_kb=5))
    assert result.encoded.target_unreachable
    assert "target_unreachable" in result.review_reasons


def test_the_profile_is_aimed_at_and_kept(plain: ProductPhoto):
    result = enhance(
        plain.image, EnhancementConfig(mode=Mode.FULL, profile="amazon_main", margin=0.2, background="#00FF00")
    )
    assert {rule.rule: rule.passed for rule in result.rules} == dict.fromkeys(
        ("background", "min_fill", "min_side", "max_side"), True
    )


def test_a_custom_profile_is_aimed_at_and_its_failed_rules_are_named(plain: ProductPhoto):
    rules = {"background": "#FFFFFF", "min_fill": 0.95, "max_side": 600, "max_kb": 4}
    result = enhance(plain.image, EnhancementConfig.from_mapping({"profile": "custom", "custom_rules": rules}))
    assert result.size == (600, 600)
    assert [(rule.rule, rule.passed) for rule in result.rules] == [
        ("background", True),
        ("min_fill", True),
        ("max_side", True),
        ("max_kb", False),
    ]
    assert result.rules[-1].value == len(result.encoded.data) / 1024
    assert {"target_unreachable", "profile_max_kb"} <= set(result.review_reasons)


def test_text_stays_as_sharp_as_it_was():
    for seed in (9010, 9011, 9012):
        photo = render_product(seed, width=1000, height=800)
        result = enhance(photo.image, EnhancementConfig(mode=Mode.FULL))
        x1, y1, x2, y2 = photo.box
        rows, columns = np.flatnonzero((result.alpha > 127).any(1)), np.flatnonzero((result.alpha > 127).any(0))
        product = result.image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        before = photo.image[y1:y2, x1:x2]
        after = cv2.resize(product, before.shape[1::-1], interpolation=cv2.INTER_AREA)
        a, b, c, d = (value - start for value, start in zip(photo.text_box, (x1, y1, x1, y1), strict=True))
        assert energy(after[b:d, a:c]) >= energy(before[b:d, a:c])


def energy(image: np.ndarray) -> float:
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return float((cv2.Sobel(grey, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(grey, cv2.CV_32F, 0, 1) ** 2).mean())


def file_of(picture: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, name, **options)
    return buffer.getvalue()


def test_a_transparent_png_is_put_before_white_by_its_own_alpha():
    pixels = np.zeros((200, 200, 4), np.uint8)
    pixels[60:140, 60:140] = (200, 30, 30, 255)
    result = enhance(file_of(Image.fromarray(pixels), "PNG"), EnhancementConfig(mode=Mode.OPTIMIZE))
    assert result.background_replaced
    assert result.image[0, 0].tolist() == [255, 255, 255]
    assert result.image[100, 100].tolist() == [30, 30, 200]


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.FULL])
def test_a_file_in_which_all_is_transparent_goes_to_review(mode: Mode):
    empty = file_of(Image.new("RGBA", (80, 60)), "PNG")
    assert "mask_nearly_empty" in enhance(empty, EnhancementConfig(mode=mode)).review_reasons


def test_what_nowhere_is_opaque_is_seen_before_the_background():
    half = np.full((60, 80, 4), (200, 30, 30, 100), np.uint8)
    result = enhance(file_of(Image.fromarray(half), "PNG"), EnhancementConfig(mode=Mode.OPTIMIZE))
    assert "mask_nearly_empty" in result.review_reasons
    assert result.image[30, 40].tolist() == pytest.approx([167, 167, 233], abs=1)


def test_the_frame_around_a_picture_without_a_product_is_not_scored():
    black = enhance(np.zeros((300, 400, 3), np.uint8), EnhancementConfig(mode=Mode.FULL))
    assert black.after.score < 5


# Colourants (X, Y, Z of red, green and blue) adapted to D50, as the published profiles have them.
SRGB = np.array([[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]])
ADOBE_RGB = np.array([[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]])
DISPLAY_P3 = np.array([[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189], [0.15710, 0.06657, 0.78407]])
ADOBE_GAMMA = 563 / 256


def srgb_to_linear(part: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(part: np.ndarray) -> np.ndarray:
    return np.where(part <= 0.0031308, part * 12.92, 1.055 * np.maximum(part, 0) ** (1 / 2.4) - 0.055)


def rgb_profile(colourants: np.ndarray, curve: np.ndarray) -> bytes:
    """A display profile of three colourants and one tone curve of 16 bits (ICC.1:2001-04, 6.3.2.2)."""

    def xyz(values) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    tone = b"curv\0\0\0\0" + struct.pack(">I", len(curve)) + np.round(curve).astype(">u2").tobytes()
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": name, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz([0.9642, 1.0, 0.8249])}
    tags |= {b"rXYZ": xyz(colourants[0]), b"gXYZ": xyz(colourants[1]), b"bXYZ": xyz(colourants[2])}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone)
    table, data = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI", 132 + 12 * len(tags) + len(data), 0x02200000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">iii", *(round(part * 65536) for part in (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + table + data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("colourants", "curve", "to_linear"),
    [
        (ADOBE_RGB, np.array([563]), lambda part: part**ADOBE_GAMMA),  # one value is a gamma, in 256ths
        (DISPLAY_P3, 65535 * srgb_to_linear(np.linspace(0, 1, 1024)), srgb_to_linear),
    ],
    ids=["Adobe RGB", "Display P3"],
)
@pytest.mark.parametrize("colour", [(200, 100, 50), (60, 160, 90), (128, 128, 128), (0, 255, 0)])
def test_colours_of_a_wider_space_are_those_of_srgb_afterwards(kind, colourants, curve, to_linear, colour):
    linear = to_linear(np.array(colour) / 255) @ colourants @ np.linalg.inv(SRGB)
    wanted = 255 * linear_to_srgb(np.clip(linear, 0, 1))
    lossless = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}[kind]
    data = file_of(Image.new("RGB", (64, 64), colour), kind, icc_profile=rgb_profile(colourants, curve), **lossless)
    made = enhance(data, EnhancementConfig(mode=Mode.OPTIMIZE)).image
    assert made[32, 32, ::-1] == pytest.approx(wanted, abs=3)


def test_a_profile_that_is_not_for_rgb_is_passed_over():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    red = Image.new("RGB", (64, 64), (200, 40, 40))
    unchanged = enhance(file_of(red, "PNG", icc_profile=lab), EnhancementConfig(mode=Mode.OPTIMIZE)).image
    assert unchanged[0, 0].tolist() == [40, 40, 200]


def test_gps_and_other_exif_are_not_published(plain: ProductPhoto):
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    exif.get_ifd(0x8825)[1] = "N"
    data = file_of(Image.fromarray(plain.image[..., ::-1].copy()), "JPEG", exif=exif)
    assert b"a secret description" in data
    published = enhance(data, EnhancementConfig(mode=Mode.OPTIMIZE)).encoded.data
    assert b"Exif" not in published
    assert b"a secret description" not in published


def test_cmyk_and_16_bit_files_are_enhanced(plain: ProductPhoto):
    cmyk = file_of(Image.fromarray(plain.image[..., ::-1].copy()).convert("CMYK"), "JPEG", quality=95)
    deep = cv2.imencode(".png", plain.image.astype(np.uint16) * 257)[1].tobytes()
    for data in (cmyk, deep):
        result = enhance(data, EnhancementConfig(mode=Mode.FULL))
        assert result.background_replaced
        assert result.size == (1500, 1500)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (300, 20000), (64, 64)])
def test_odd_shapes_and_empty_pictures_are_answered(mode: Mode, shape: tuple[int, int]):
    for level in (0, 128, 255):
        result = enhance(np.full((*shape, 3), level, np.uint8), EnhancementConfig(mode=mode))
        assert decoded(result.encoded.data).shape[1::-1] == result.size
        assert not result.background_replaced


def test_judging_a_file_is_judging_its_product(cluttered: ProductPhoto):
    cover = (cluttered.alpha / 255)[..., None]
    white = (cover * cluttered.image + 255 * (1 - cover)).astype(np.uint8)
    before = judge(cv2.imencode(".png", cluttered.image)[1].tobytes(), boxes=[cluttered.box])
    assert judge(white).score == pytest.approx(before.score, abs=2)


def test_a_colour_cast_of_a_grey_backdrop_is_removed(plain: ProductPhoto):
    scene = np.full((300, 300, 3), (150, 165, 172), np.uint8)
    mask = np.zeros((300, 300), np.uint8)
    cv2.circle(scene, (150, 150), 80, (40, 40, 200), -1)
    cv2.circle(mask, (150, 150), 90, 255, -1)
    balanced = correct_light(scene, mask)
    assert np.ptp(scene[5, 5].astype(int)) == 22
    assert np.ptp(balanced[5, 5].astype(int)) <= 4


def test_a_tinted_product_keeps_its_tint():
    scene = np.full((300, 300, 3), 235, np.uint8)
    mask = np.zeros((300, 300), np.uint8)
    cv2.circle(scene, (150, 150), 80, (215, 235, 222), -1)
    cv2.circle(mask, (150, 150), 80, 255, -1)
    tint = correct_light(scene, mask)[150, 150].astype(int)
    assert tint[1] - tint[0] >= 15


@pytest.mark.parametrize("level", [40, 120, 225])
def test_a_product_of_one_tone_is_never_darkened(level: int):
    flat = np.full((200, 200, 3), level, np.uint8)
    assert correct_light(flat, np.full((200, 200), 255, np.uint8)).min() >= level


@pytest.mark.parametrize("around", [255, 215])
@pytest.mark.parametrize("colour", [(60, 109, 30), (40, 150, 180), (160, 90, 40)], ids=["green", "ochre", "blue"])
def test_a_product_with_light_and_contrast_keeps_its_colour(around: int, colour: tuple[int, int, int]):
    scene = np.full((300, 300, 3), around, np.uint8)
    scene[50:250, 100:200] = colour
    scene[110:190, 105:195] = 250  # its label
    scene[130:150, 110:190] = 25
    mask = np.zeros((300, 300), np.uint8)
    mask[50:250, 100:200] = 255
    changed = correct_light(scene, mask)[70, 150].astype(float) / colour
    assert 0.9 < changed.min() <= changed.max() < 1.15


def test_a_black_product_in_a_well_lit_scene_stays_black():
    scene = np.full((200, 200, 3), 240, np.uint8)
    scene[50:150, 50:150] = 30
    mask = np.zeros((200, 200), np.uint8)
    mask[50:150, 50:150] = 255
    assert correct_light(scene, mask)[100, 100].max() <= 80


def test_a_dark_scene_gets_its_whites_and_keeps_its_blacks(plain: ProductPhoto):
    light = correct_light(degrade(plain.image, Defect.DARK), plain.alpha)
    tones = cv2.cvtColor(light, cv2.COLOR_BGR2GRAY)[plain.alpha == 255]
    assert np.quantile(tones, 0.99) >= 200
    assert np.quantile(tones, 0.002) <= 60


def test_no_light_changes_nothing(plain: ProductPhoto):
    np.testing.assert_array_equal(correct_light(plain.image, plain.alpha, 0), plain.image)


@pytest.mark.parametrize("sigma", [4, 25])
def test_denoising_brings_the_picture_nearer_to_the_clean_one(plain: ProductPhoto, sigma: float):
    noise = np.random.default_rng(1).normal(0, sigma, plain.image.shape)
    noisy = (plain.image + noise).clip(0, 255).astype(np.uint8)
    cleaned = denoise(noisy, 0.7 * sigma)
    error = [np.square(picture.astype(float) - plain.image).mean() for picture in (noisy, cleaned)]
    assert error[1] < 0.5 * error[0]


def test_sharpening_does_not_overshoot_into_halos():
    step = np.full((60, 60, 3), 90, np.uint8)
    step[:, 30:] = 160
    soft = cv2.GaussianBlur(step, (0, 0), 1.5)
    sharp = sharpen(soft, 1.5)
    assert sharp.min() >= 80
    assert sharp.max() <= 170
    steepest = [np.abs(np.diff(picture[30, :, 0].astype(int))).max() for picture in (soft, sharp)]
    assert steepest[1] > 1.1 * steepest[0]


LARGE = """
import resource, sys
import cv2, numpy as np
from imgpipe_dagster.demo.products import render_product
from imgpipe_dagster.imaging.enhance import enhance
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

photo = render_product(5, width=1280, height=960).image
large = cv2.resize(photo, (5600, 4200), interpolation=cv2.INTER_CUBIC)
before = peak()
made = enhance(large, EnhancementConfig(mode=Mode(sys.argv[1])))
assert made.background_replaced
print(peak() - before)
"""


@pytest.mark.parametrize("mode", [Mode.FULL, Mode.AUTO])
def test_a_large_picture_takes_little_memory_beside_itself(mode: Mode):
    told = subprocess.run([sys.executable, "-c", LARGE, mode.value], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 5600 * 4200 * 12 / 2**20, "beside the picture itself, in MB"
