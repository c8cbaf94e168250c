"""Fashion-MNIST: the right pixels, in the right order, and arguments that are what they say."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from small import NoFloat64
from torch.utils import data as torch_data
from torchvision import datasets, transforms

import d2l_utils as d2l
from d2l_utils import pixels
from d2l_utils.data import ImageSet


@pytest.fixture
def fashion():
    return d2l.FashionMNIST(batch_size=128)


def numbered(n=300, **arguments):
    """Makes `n` images out of their own numbers, so that an order can be read off the labels."""
    data = d2l.FashionMNIST(train_size=1, **arguments)
    images = torch.arange(n).remainder(256).to(torch.uint8)[:, None, None].repeat(1, 28, 28)
    data.train = ImageSet(images, torch.arange(n), data.resize)
    return data


def items(dataset):
    return [dataset[i] for i in range(len(dataset))]


def labels_of(loader):
    return torch.cat([y for _, y in loader])


# --- the images -------------------------------------------------------------------------------


def test_it_is_the_official_data_set_with_the_parts_of_torchvision(fashion):
    for images, n in ((fashion.train, 60_000), (fashion.val, 10_000)):
        assert torch.bincount(images.targets).tolist() == [n // 10] * 10
        assert images.classes == datasets.FashionMNIST.classes
        assert (images.data.dtype, images.data.shape) == (torch.uint8, (n, 28, 28))
        assert (images.targets.dtype, len(images)) == (torch.int64, n)
    assert fashion.val.targets[:3].tolist() == [9, 2, 1]
    # The mean as the data set's users report it.
    assert int(fashion.train.data.sum()) / 255 / 784 / 60_000 == pytest.approx(0.28604, abs=1e-5)


def test_items_and_batches_have_the_types_of_torchvision(fashion):
    image, label = fashion.train[0]
    assert (image.shape, image.dtype, label) == ((1, 28, 28), torch.float32, 9)
    assert 0 <= float(image.min()) and float(image.max()) == 1
    assert fashion.train[-1][1] == int(fashion.train.targets[-1])
    with pytest.raises(IndexError):
        fashion.train[60_000]
    assert isinstance(next(iter(fashion.val_dataloader())), list)  # as torch's own loader has it
    X, y = next(iter(fashion.train_dataloader()))
    assert (X.shape, X.dtype) == ((128, 1, 28, 28), torch.float32)
    assert (y.shape, y.dtype) == ((128,), torch.int64)


# The sizes of the book, and some in which torch's own uint8 resize misses Pillow by a grey level.
SIZES = [(n, n) for n in (28, 32, 56, 84, 96, 224, 16, 20)] + [(40, 20)]


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_torchvision(fashion, size):
    reference = transforms.Compose([transforms.Resize(size), transforms.ToTensor()])
    chosen = range(0, 10_000, 500)
    images = [Image.fromarray(fashion.val.data[i].numpy()) for i in chosen]
    expected = torch.stack([reference(image) for image in images])
    fashion.batch_size = 7
    fashion.val = ImageSet(fashion.val.data[chosen], fashion.val.targets[chosen], size)
    assert torch.equal(torch.stack([image for image, _ in items(fashion.val)]), expected)
    assert torch.equal(torch.cat([X for X, _ in fashion.val_dataloader()]), expected)
    with torch.autocast("cpu", torch.bfloat16):  # in which a trainer may ask for batches
        assert torch.equal(torch.cat([X for X, _ in fashion.val_dataloader()]), expected)


def pillow(images, size):
    resample = Image.Resampling.BILINEAR
    resized = [Image.fromarray(x.numpy()).resize(size[::-1], resample) for x in images]
    return torch.stack([transforms.functional.pil_to_tensor(image) for image in resized])


@pytest.mark.parametrize("before", [(28, 28), (1, 1), (5, 31), (90, 61)])
def test_pixels_are_those_of_pillow_at_any_size(before):
    # Grey noise with many whites and blacks, to heights of all kinds, and widths that reach as far.
    noise = torch.randint(-128, 384, (3, *before), generator=torch.Generator().manual_seed(0))
    images = noise.clamp(0, 255).to(torch.uint8)
    for height in range(1, 130, 2):
        for width in {height, 131 - height, before[1]}:
            if before[0] - height > max(0, 2 * (before[1] - width)):
                continue  # where much height goes, Pillow 13 begins with it, others with the width
            ours = pixels.resize_images(images[:, None], (height, width))
            assert torch.equal((255 * ours).round().byte(), pillow(images, (height, width)))


@pytest.mark.parametrize(("before", "after"), [(28, 29), (28, 56), (28, 72), (28, 96), (7, 224)])
def test_torch_resizes_where_it_is_shown_to_be_exact(before, after):
    # The few pairs of neighbours that are tried decide as all 65,536 do.
    levels = torch.arange(256, dtype=torch.uint8)
    pairs = torch.cartesian_prod(levels, levels)[:, torch.arange(before) % 2]
    wide = pairs.reshape(64, 1, 1024, before)
    for images, dim, size in ((wide, -1, (1024, after)), (wide.mT, -2, (after, 1024))):
        by_torch = pixels._interpolate(images, size).reshape(64, 1, *size)
        ours = pixels._resample(images.int(), dim, after).byte()
        assert torch.equal(by_torch, ours) == pixels._is_exact(before, after)


def test_pixels_need_no_float64():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    expected = pixels.resize_images(images, (20, 24))  # from here on the sizes are known
    with NoFloat64():
        assert torch.equal(pixels.resize_images(images, (20, 24)), expected)
        assert pixels.augment_images(images, pixels.AUGMENTATIONS, None).dtype == torch.uint8


def test_only_grey_levels_are_resized():
    with pytest.raises(TypeError, match=r"images are torch\.float32"):
        pixels.resize_images(torch.zeros(1, 1, 28, 28), (28, 28))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [(20, 20), (56, 56), (224, 224)])
def test_pixels_on_a_gpu_are_the_same(fashion, size):
    images = fashion.val.data[:256, None]
    on_gpu = pixels.resize_images(images.cuda(), size).cpu()
    expected = pixels.resize_images(images, size)
    assert torch.equal((255 * on_gpu).round(), (255 * expected).round())
    assert (on_gpu - expected).abs().max() <= 2**-23  # there torch multiplies by 1/255


# --- other images in their place --------------------------------------------------------------


def test_data_and_targets_may_be_replaced():
    data = d2l.FashionMNIST(batch_size=64, train_size=100)
    shoes = [int(y) in (5, 7, 9) for y in data.train.targets]
    data.train.data = data.train.data[shoes].flip(-1)
    data.train.targets = [1] * sum(shoes)
    (batch,) = data.train_dataloader()
    assert len(data.train) == len(batch[0]) == sum(shoes)
    assert batch[1].tolist() == [y for _, y in items(data.train)] == data.train.targets
    before = {tuple(image.flatten().tolist()) for image in data.train.data}
    assert {tuple(x.flatten().tolist()) for x in (255 * batch[0]).round().byte()} == before


def test_a_transform_is_honoured():
    data = d2l.FashionMNIST(batch_size=64, train_size=100, resize=(32, 32))
    data.val.transform = transforms.Compose([transforms.Resize(8), transforms.ToTensor()])
    X, y = next(iter(data.val_dataloader()))
    expected = [data.val.transform(Image.fromarray(x.numpy())) for x in data.val.data[:64]]
    assert torch.equal(X, torch.stack(expected)) and torch.equal(data.val[5][0], expected[5])
    assert torch.equal(y, data.val.targets[:64])
    assert next(iter(data.train_dataloader()))[0].shape == (64, 1, 32, 32)


DATASETS = {
    "a subset": lambda images: torch_data.Subset(images, range(3, 90, 2)),
    "two in one": lambda images: torch_data.ConcatDataset([images, images]),
    "tensors": lambda images: torch_data.TensorDataset(images.data.float(), images.targets),
}


@pytest.mark.parametrize("make_dataset", DATASETS.values(), ids=DATASETS)
def test_any_data_set_may_be_put_in_its_place(make_dataset):
    class Folds(d2l.FashionMNIST):
        def __init__(self):
            super().__init__(batch_size=8, resize=(20, 20), train_size=100, seed=0)
            self.train = self.val = make_dataset(self.train)

    data = Folds()
    expected = [(x.flatten().tolist(), int(y)) for x, y in items(data.val)]

    def served(loader):
        assert len(loader) == -(-len(expected) // 8)
        pairs = [pair for batch in loader for pair in zip(*batch, strict=True)]
        return [(x.flatten().tolist(), int(y)) for x, y in pairs]

    assert served(data.val_dataloader()) == expected
    in_another_order = served(Folds().train_dataloader())
    assert in_another_order != expected and sorted(in_another_order) == sorted(expected)
    assert served(Folds().train_dataloader()) == in_another_order  # by its seed


def test_augmentation_is_not_dropped_without_a_word():
    data = d2l.FashionMNIST(train_size=10, augment=["flip"])
    data.train = torch_data.Subset(data.train, [1, 2])
    with pytest.raises(ValueError, match="augment"):
        data.train_dataloader()
    assert len(data.val_dataloader()) == 157


# --- loaders ----------------------------------------------------------------------------------


def test_batches_go_where_the_data_is_told_to(fashion):
    data = copy.copy(fashion)
    data.device = torch.device("meta")
    X, y = next(iter(data.val_dataloader()))
    assert X.device == y.device == data.device
    assert fashion.device == d2l.cpu()


def test_every_epoch_has_each_image_once_in_an_order_of_its_own(fashion):
    loader = numbered().train_dataloader()
    first, second = labels_of(loader), labels_of(loader)
    assert [len(y) for _, y in loader] == [64, 64, 64, 64, 44] and len(loader) == 5
    assert not torch.equal(first, torch.arange(300)) and not torch.equal(first, second)
    assert torch.equal(first.sort().values, torch.arange(300))
    assert torch.equal(second.sort().values, torch.arange(300))
    for X, y in loader:
        assert torch.equal((X[:, 0, 0, 0] * 255).round().long(), y.remainder(256))
    assert torch.equal(labels_of(fashion.val_dataloader()), fashion.val.targets)


def test_a_seed_fixes_order_and_augmentation():
    def epoch(seed, global_seed):
        data = numbered(augment=["flip", "crop"], seed=seed)
        data.train.data[:, :, :14] = 0
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        images = [torch.cat([x.flatten() for x in batch]) for batch in data.train_dataloader()]
        assert torch.equal(state, torch.get_rng_state()) == (seed is not None)
        return torch.cat(images)

    assert torch.equal(epoch(1, 0), epoch(1, 9))
    assert not torch.equal(epoch(1, 0), epoch(2, 0))
    assert torch.equal(epoch(None, 5), epoch(None, 5))
    assert not torch.equal(epoch(None, 5), epoch(None, 6))


def test_holdout_is_the_end_of_the_training_set_and_train_size_its_beginning(fashion):
    data = d2l.FashionMNIST(holdout=10_000)
    small = d2l.FashionMNIST(holdout=10_000, train_size=50, batch_size=32)
    for name in ("data", "targets"):
        whole = getattr(fashion.train, name)
        assert torch.equal(getattr(data.train, name), whole[:50_000])
        assert torch.equal(getattr(small.train, name), whole[:50])
        for images in (data.val, small.val):
            assert torch.equal(getattr(images, name), whole[50_000:])
    assert [len(X) for X, _ in small.train_dataloader()] == [32, 18]


def augmented(names, n=2000):
    """Returns where the one bright pixel of each image is after augmentation."""
    data = d2l.FashionMNIST(batch_size=n, train_size=1, augment=names, seed=3)
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    images[:, 10, 5] = 255
    data.train = data.val = ImageSet(images, torch.zeros(n, dtype=torch.long), (28, 28))
    ((before, _),), ((after, _),) = data.val_dataloader(), data.train_dataloader()
    assert torch.equal(before[:, 0] * 255, images.float())  # validation is never augmented
    return after.squeeze(1).nonzero()[:, 1:].unique(dim=0, return_counts=True)


def test_flip_mirrors_about_half_of_the_images():
    places, counts = augmented(["flip"])
    assert places.tolist() == [[10, 5], [10, 22]]
    assert abs(int(counts[0]) - 1000) < 150


def test_crop_shifts_by_up_to_two_pixels_each_way_alike_and_lets_zeros_in():
    places, counts = augmented(["crop"])
    assert places.tolist() == [[row, col] for row in range(8, 13) for col in range(3, 8)]
    assert counts.sum() == 2000 and counts.min() > 40  # 80 each are expected
    white = torch.full((100, 1, 28, 28), 255, dtype=torch.uint8)
    lost = (pixels.augment_images(white, ["crop"], None) == 0).sum(dim=(1, 2, 3))
    assert int(lost.max()) == 784 - 26 * 26


# --- labels, pictures, arguments --------------------------------------------------------------


def test_text_labels(fashion):
    names = "t-shirt trouser pullover dress coat sandal shirt sneaker bag".split()
    assert fashion.text_labels(range(10)) == [*names, "ankle boot"]
    assert fashion.text_labels(torch.tensor([9, 0])) == ["ankle boot", "t-shirt"]
    with pytest.raises(ValueError, match="-1"):
        fashion.text_labels(torch.tensor([3, -1]))


def test_visualize(fashion):
    batch = next(iter(fashion.val_dataloader()))
    axes = fashion.visualize(batch)
    assert [ax.get_title() for ax in axes] == fashion.text_labels(batch[1][:8])
    assert axes[3].images[0].get_array().tolist() == batch[0][3, 0].tolist()
    axes = fashion.visualize(batch, nrows=2, ncols=3, labels=list("abcdef"))
    assert [ax.get_title() for ax in axes] == list("abcdef")
    axes = fashion.visualize([part[:3] for part in batch], ncols=4)
    assert [len(ax.images) for ax in axes] == [1, 1, 1, 0]


@pytest.mark.parametrize("resize", [20, np.int64(20), np.array([20, 20]), torch.Size([20, 20])])
def test_arguments_are_kept_as_integers_of_python(resize):
    sizes = {"batch_size": np.int64(4), "train_size": np.int64(6)}
    data = d2l.FashionMNIST(resize=resize, augment=["flip"], **sizes)
    assert data.resize == data.hparams["resize"] == (20, 20)
    assert [type(data.hparams[name]) for name in sizes] == [int, int]
    assert (data.num_workers, data.hparams["augment"]) == (0, ["flip"])
    assert [X.shape for X, _ in data.train_dataloader()] == [(4, 1, 20, 20), (2, 1, 20, 20)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("resize", (28, -1)), ("resize", 0), ("batch_size", 0), ("holdout", -1), ("holdout", 60_000)]
    + [("train_size", 0), ("train_size", 59_991)]  # ten are held out
    + [("augment", ["rotate"]), ("augment", "flip")],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        d2l.FashionMNIST(**{"holdout": 10, name: value})


# --- DataModule -------------------------------------------------------------------------------


def test_the_base_class_says_what_to_define():
    with pytest.raises(NotImplementedError, match=r"DataModule defines no get_dataloader\(train\)"):
        d2l.DataModule().train_dataloader()


def test_tensorloader():
    class Numbers(d2l.DataModule):
        batch_size = 4

        def get_dataloader(self, train):
            indices = slice(0, 8) if train else slice(8, None)
            return self.get_tensorloader([torch.arange(10), -torch.arange(10)], train, indices)

    data = Numbers()
    data.generator = torch.Generator().manual_seed(0)
    assert [len(batch) for batch, _ in data.train_dataloader()] == [4, 4]
    assert [batch.tolist() for batch in next(iter(data.val_dataloader()))] == [[8, 9], [-8, -9]]
    orders = []
    for seed in (0, 1, 0):
        data.generator.manual_seed(seed)
        orders.append(labels_of(data.train_dataloader()).tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(-7, 1))


def test_the_least_that_is_allowed():
    data = d2l.FashionMNIST(batch_size=1, resize=1, train_size=1)
    ((X, y),) = data.train_dataloader()
    assert X.shape == (1, 1, 1, 1) and data.text_labels(y) == ["ankle boot"]
