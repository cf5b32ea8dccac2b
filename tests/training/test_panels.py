"""Panels: how many, where, and that the pixels are the ones of the tasks' pictures."""

import numpy as np
import torch
from PIL import Image

from tasks.base import Target
from tests.training.examples import BATCHES, Small, make_tasks
from training.panels import GAP, MEAN_BGR, FirstBatch, Layout, draw, input_picture, strip, write_panels


def test_one_file_an_image_until_the_count(tmp_path):
    paths = write_panels(Small(), make_tasks(), BATCHES, tmp_path / "new" / "folder", 4)
    assert [path.name for path in paths] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == paths


def test_a_count_beyond_the_loader_writes_what_there_is(tmp_path):
    assert len(write_panels(Small(), make_tasks(), BATCHES[:2], tmp_path, 50)) == 3


def test_pictures_of_an_earlier_call_go(tmp_path):
    (tmp_path / "mine.png").touch()
    write_panels(Small(), make_tasks(), BATCHES, tmp_path, 4)
    assert [path.name for path in write_panels(Small(), make_tasks(), BATCHES, tmp_path, 1)] == ["0000.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"0000.png", "mine.png"}


def test_count_zero_writes_nothing(tmp_path):
    assert write_panels(Small(), make_tasks(), BATCHES, tmp_path / "none", 0) == []
    assert not (tmp_path / "none").exists()


def test_a_caption_stands_in_the_space_of_the_legend_alone(tmp_path):
    plain, told = (
        np.asarray(
            Image.open(write_panels(Small(), make_tasks(), BATCHES, tmp_path / text, 1, caption=text)[0])
        )
        for text in ("", "synthetic rooms, width 0.125")
    )
    layout = Layout.of(8, 12, 3)
    different = np.argwhere((plain != told).any(-1))
    top, left = different.min(0)
    assert top > layout.title + layout.cell[1] and different[:, 1].max() < GAP + layout.cell[0] and left > GAP


def test_mode_is_left_and_panels_do_not_depend_on_it(tmp_path):
    model = Small().train()
    first = write_panels(model, make_tasks(), BATCHES, tmp_path / "a", 1)[0].read_bytes()
    assert model.training and model.trunk[2].training
    assert first == write_panels(model.eval(), make_tasks(), BATCHES, tmp_path / "b", 1)[0].read_bytes()


def test_input_picture_undoes_the_loader():
    blue_green_red = torch.tensor([10.0, 20.0, 250.0]) - torch.tensor(MEAN_BGR)
    assert input_picture(blue_green_red.view(3, 1, 1)).tolist() == [[[250, 20, 10]]]


def test_pictures_are_drawn_pixel_for_pixel(tmp_path):
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(3)]
    draw(pictures[0], [[("t: target", pictures[1]), ("t: prediction", pictures[2])]], tmp_path / "p.png")
    page = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    layout = Layout.of(24, 32, 2)
    (width, height), title = layout.cell, layout.title
    assert (width, height) == (320, 240)
    assert page.shape == (2 * (title + height) + GAP, 2 * width + 3 * GAP, 3)
    places = [(title, GAP), (title, 2 * GAP + width), (2 * title + height, 2 * GAP + width)]
    for picture, (top, left) in zip(pictures, places, strict=True):
        shown = page[top : top + height, left : left + width]
        assert np.array_equal(shown, picture.repeat(10, 0).repeat(10, 1))


def test_odd_sizes_are_drawn_pixel_for_pixel(tmp_path):
    generator = np.random.default_rng(1)
    pictures = [generator.integers(0, 256, (321, 401, 3), dtype=np.uint8) for _ in range(2)]
    draw(pictures[0], [[("t", picture) for picture in pictures]] * 5, tmp_path / "p.png")
    page = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    layout = Layout.of(321, 401, 6)
    left = GAP + 5 * (401 + GAP)
    assert np.array_equal(page[layout.title : layout.title + 321, left : left + 401], pictures[0])


def test_a_strip_is_the_panels_pictures_without_words():
    tasks, kept = make_tasks(), FirstBatch()
    assert list(kept.of(BATCHES)) == BATCHES and kept.batch is BATCHES[0]
    picture = strip(Small(), tasks, kept.batch)
    image, targets = BATCHES[0]
    assert (picture.shape, picture.dtype) == ((2 * 8, 3 * 12, 3), np.uint8)
    assert (picture[:8, :12] == input_picture(image[0])).all() and (picture[8:, :12] == 255).all()
    seg = Target(targets["seg"].value[0], targets["seg"].valid[0])
    assert (picture[:8, 12:24] == tasks["seg"].picture(*seg, like=seg)).all()
