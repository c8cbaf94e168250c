"""Fashion-MNIST: the right pixels, in the right order, from the right files, or a clear error."""

import copy
import functools
import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock
from urllib.error import URLError

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils import data as torch_data
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import datasets, transforms

import d2l_utils as d2l
import d2l_utils.__main__ as command
from d2l_utils import data as data_module
from d2l_utils import fashion_mnist_files, pixels
from d2l_utils.data import ImageSet

read_files = functools.cache(fashion_mnist_files.load)


def make(**arguments):
    """Makes the data set without reading its files again."""
    with mock.patch.object(data_module, "load", lambda root: read_files(None)):
        return d2l.FashionMNIST(**arguments)


@pytest.fixture(scope="module")
def fashion():
    return d2l.FashionMNIST(batch_size=128)


def numbered(data, n):
    """Makes `n` images out of their own numbers, so that an order can be read off the labels."""
    images = torch.arange(n).remainder(256).to(torch.uint8)[:, None, None].expand(n, 28, 28)
    data.train = ImageSet(images.contiguous(), torch.arange(n), data.resize)
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
    # Mean and standard deviation as the data set's users report them.
    pixels = fashion.train.data.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.28604, abs=1e-5)
    assert float(pixels.std()) == pytest.approx(0.35302, abs=1e-5)


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
SIZES = [(n, n) for n in (28, 32, 56, 84, 96, 224, 7, 16, 20, 27, 225)] + [(40, 20), (56, 84)]


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_torchvision(fashion, size):
    reference = transforms.Compose([transforms.Resize(size), transforms.ToTensor()])
    chosen = range(0, 10_000, 250)
    images = [Image.fromarray(fashion.val.data[i].numpy()) for i in chosen]
    expected = torch.stack([reference(image) for image in images])
    data = copy.copy(fashion)
    data.batch_size = 7
    data.val = ImageSet(fashion.val.data[chosen], fashion.val.targets[chosen], size)
    assert torch.equal(torch.stack([image for image, _ in items(data.val)]), expected)
    assert torch.equal(torch.cat([X for X, _ in data.val_dataloader()]), expected)
    with torch.autocast("cpu", torch.bfloat16):  # in which a trainer may ask for batches
        assert torch.equal(torch.cat([X for X, _ in data.val_dataloader()]), expected)


def pillow(images, size):
    resample = Image.Resampling.BILINEAR
    resized = [Image.fromarray(x.numpy()).resize(size[::-1], resample) for x in images]
    return torch.stack([transforms.functional.pil_to_tensor(image) for image in resized])


@pytest.mark.parametrize("before", [(28, 28), (1, 1), (5, 31), (90, 61)])
def test_pixels_are_those_of_pillow_at_any_size(before):
    # Grey noise with many whites and blacks, to all heights, and to widths that reach as far.
    noise = torch.randint(-128, 384, (3, *before), generator=torch.Generator().manual_seed(0))
    images = noise.clamp(0, 255).to(torch.uint8)
    for height in range(1, 130):
        for width in {height, 131 - height, before[1]}:
            if before[0] - height > max(0, 2 * (before[1] - width)):
                continue  # where much height goes, Pillow 13 begins with it, others with the width
            ours = pixels.resize_images(images[:, None], (height, width))
            assert torch.equal((255 * ours).round().byte(), pillow(images, (height, width)))


def test_pixels_need_no_float64(monkeypatch):
    """Some accelerators have none; here one stands in that refuses it once the sizes are known."""
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    expected = pixels.resize_images(images, (20, 24))

    class Refusing(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            assert getattr(result, "dtype", None) != torch.double, function
            return result

    with Refusing():
        assert torch.equal(pixels.resize_images(images, (20, 24)), expected)
        assert pixels.augment_images(images, pixels.AUGMENTATIONS, None).dtype == torch.uint8


def test_only_grey_levels_are_resized():
    with pytest.raises(TypeError, match=r"images are torch\.float32; they must be torch\.uint8"):
        pixels.resize_images(torch.zeros(1, 1, 28, 28), (28, 28))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [(20, 20), (56, 56), (224, 224)])
def test_pixels_on_a_gpu_are_the_same(fashion, size):
    images = fashion.val.data[:256, None]
    on_gpu = pixels.resize_images(images.cuda(), size).cpu()
    expected = pixels.resize_images(images, size)
    assert torch.equal((255 * on_gpu).round(), (255 * expected).round())
    assert (on_gpu - expected).abs().max() <= 2**-23  # there torch multiplies by 1/255


def test_data_and_targets_may_be_replaced():
    data = make(batch_size=64, train_size=100)
    shoes = [int(y) in (5, 7, 9) for y in data.train.targets]
    data.train.data = data.train.data[shoes].flip(-1)
    data.train.targets = [1] * sum(shoes)
    (batch,) = data.train_dataloader()
    assert len(data.train) == len(batch[0]) == sum(shoes)
    assert batch[1].tolist() == [y for _, y in items(data.train)] == data.train.targets
    before = {tuple(image.flatten().tolist()) for image in data.train.data}
    assert {tuple(x.flatten().tolist()) for x in (255 * batch[0]).round().byte()} == before


def test_a_transform_is_honoured(fashion):
    data = make(batch_size=64, train_size=100, resize=(32, 32))
    data.val.transform = transforms.Compose([transforms.Resize(8), transforms.ToTensor()])
    X, y = next(iter(data.val_dataloader()))
    expected = [data.val.transform(Image.fromarray(x.numpy())) for x in data.val.data[:64]]
    assert torch.equal(X, torch.stack(expected)) and torch.equal(data.val[5][0], expected[5])
    assert torch.equal(y, fashion.val.targets[:64])
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

    with mock.patch.object(data_module, "load", lambda root: read_files(None)):
        data = Folds()
    expected = [(x.flatten().tolist(), int(y)) for x, y in items(data.val)]

    def served(loader):
        assert len(loader) == -(-len(expected) // 8)
        pairs = [pair for batch in loader for pair in zip(*batch, strict=True)]
        return [(x.flatten().tolist(), int(y)) for x, y in pairs]

    assert served(data.val_dataloader()) == expected
    in_another_order = served(data.train_dataloader())
    assert in_another_order != expected and sorted(in_another_order) == sorted(expected)


def test_augmentation_is_not_dropped_without_a_word():
    data = make(train_size=10, augment=["flip"])
    data.train = torch_data.Subset(data.train, [1, 2])
    with pytest.raises(ValueError, match="augment"):
        data.train_dataloader()
    assert len(data.val_dataloader()) == 157


def test_batches_go_where_the_data_is_told_to(fashion):
    data = copy.copy(fashion)
    data.device = torch.device("meta")
    X, y = next(iter(data.val_dataloader()))
    assert X.device == y.device == data.device
    assert fashion.device == d2l.cpu()


# --- loaders ----------------------------------------------------------------------------------


def test_every_epoch_has_each_image_once_in_an_order_of_its_own(fashion):
    data = numbered(make(batch_size=64, train_size=1), 300)
    loader = data.train_dataloader()
    first, second = labels_of(loader), labels_of(loader)
    assert len(loader) == 5
    assert [len(y) for _, y in loader] == [64, 64, 64, 64, 44]
    assert not torch.equal(first, torch.arange(300)) and not torch.equal(first, second)
    assert torch.equal(first.sort().values, torch.arange(300))
    assert torch.equal(second.sort().values, torch.arange(300))
    for X, y in loader:
        assert torch.equal((X[:, 0, 0, 0] * 255).round().long(), y.remainder(256))
    assert torch.equal(labels_of(fashion.val_dataloader()), fashion.val.targets)


def test_a_seed_fixes_order_and_augmentation():
    def epochs(seed, global_seed):
        data = numbered(make(train_size=1, augment=["flip", "crop"], seed=seed), 300)
        data.train.data[:, :, :14] = 0
        torch.manual_seed(global_seed)
        return [torch.cat([part.flatten() for part in batch]) for batch in data.train_dataloader()]

    def same(a, b):
        return all(map(torch.equal, a, b))

    assert same(epochs(1, 0), epochs(1, 9))
    assert not same(epochs(1, 0), epochs(2, 0))
    assert same(epochs(None, 5), epochs(None, 5))
    assert not same(epochs(None, 5), epochs(None, 6))


def test_a_seed_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    labels_of(numbered(make(train_size=1, seed=0), 300).train_dataloader())
    assert torch.equal(state, torch.get_rng_state())


def test_holdout_is_the_end_of_the_training_set_and_train_size_its_beginning(fashion):
    data = make(holdout=10_000)
    assert torch.equal(data.train.data, fashion.train.data[:50_000])
    assert torch.equal(data.train.targets, fashion.train.targets[:50_000])
    assert torch.equal(data.val.data, fashion.train.data[50_000:])
    assert torch.equal(data.val.targets, fashion.train.targets[50_000:])
    small = make(holdout=10_000, train_size=50, batch_size=32)
    assert torch.equal(small.train.data, fashion.train.data[:50])
    assert [len(X) for X, _ in small.train_dataloader()] == [32, 18]
    assert torch.equal(small.val.data, data.val.data)


def augmented(names, n=2000):
    """Returns images with one bright pixel each, before and after augmentation."""
    data = make(batch_size=n, train_size=1, augment=names, seed=3)
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    images[:, 10, 5] = 255
    data.train = data.val = ImageSet(images, torch.zeros(n, dtype=torch.long), (28, 28))
    ((before, _),), ((after, _),) = data.val_dataloader(), data.train_dataloader()
    assert torch.equal(before[:, 0] * 255, images.float())  # validation is never augmented
    return after.squeeze(1).nonzero()[:, 1:]


def test_flip_mirrors_about_half_of_the_images():
    places, counts = augmented(["flip"]).unique(dim=0, return_counts=True)
    assert places.tolist() == [[10, 5], [10, 22]]
    assert abs(int(counts[0]) - 1000) < 150


def test_crop_shifts_by_up_to_two_pixels_each_way_alike():
    places, counts = augmented(["crop"]).unique(dim=0, return_counts=True)
    assert places.tolist() == [[row, col] for row in range(8, 13) for col in range(3, 8)]
    assert counts.sum() == 2000 and counts.min() > 40  # 80 each are expected


def test_crop_lets_zeros_in():
    data = make(batch_size=100, train_size=100, augment=["crop"], seed=0)
    data.train.data = torch.full_like(data.train.data, 255)
    ((X, _),) = data.train_dataloader()
    lost = 784 - X.sum(dim=(1, 2, 3)).round().int()
    assert int(lost.max()) == 784 - 26 * 26


# --- labels and pictures ----------------------------------------------------------------------


def test_text_labels(fashion):
    names = "t-shirt trouser pullover dress coat sandal shirt sneaker bag".split()
    assert fashion.text_labels(range(10)) == [*names, "ankle boot"]
    assert fashion.text_labels(torch.tensor([9, 0])) == ["ankle boot", "t-shirt"]
    with pytest.raises(ValueError, match="-1"):
        fashion.text_labels(torch.tensor([3, -1]))


def test_visualize(fashion):
    matplotlib.use("Agg")
    batch = next(iter(fashion.val_dataloader()))
    axes = fashion.visualize(batch)
    assert [ax.get_title() for ax in axes] == fashion.text_labels(batch[1][:8])
    assert axes[3].images[0].get_array().tolist() == batch[0][3, 0].tolist()
    axes = fashion.visualize(batch, nrows=2, ncols=2, labels=["a", "b", "c", "d"])
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", "d"]
    axes = fashion.visualize(batch, nrows=2, ncols=3)
    assert [ax.get_title() for ax in axes] == fashion.text_labels(batch[1][:6])
    axes = fashion.visualize([part[:3] for part in batch])
    assert [len(ax.images) for ax in axes] == [1, 1, 1, 0, 0, 0, 0, 0]


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", [20, np.int64(20), np.array([20, 20]), torch.Size([20, 20])])
def test_arguments_are_kept_as_integers_of_python(resize):
    data = make(resize=resize, batch_size=np.int64(4), train_size=np.int64(6), augment=["flip"])
    assert data.resize == data.hparams["resize"] == (20, 20)
    assert [type(data.hparams[name]) for name in ("batch_size", "train_size")] == [int, int]
    assert (data.num_workers, data.hparams["augment"]) == (0, ["flip"])
    assert [X.shape for X, _ in data.train_dataloader()] == [(4, 1, 20, 20), (2, 1, 20, 20)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("resize", value) for value in [(28, -1), 0]],
        *[("batch_size", value) for value in [0, -5]],
        *[("holdout", value) for value in [-1, 60_000]],
        *[("train_size", value) for value in [0, 59_991]],  # ten are held out
        *[("augment", value) for value in [["rotate"], "flip"]],
    ],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        make(**{"holdout": 10, name: value})


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


# --- finding, checking, downloading -----------------------------------------------------------

# Three images of each kind stand in for the real ones: small, and told by their own checksums.
IMAGES = bytes(16) + bytes(range(256)) * 9 + bytes(48)
LABELS = bytes(8) + bytes([0, 1, 2])
CONTENT = {name: IMAGES if "images" in name else LABELS for name in fashion_mnist_files.FILES}
CHECKSUMS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
NAME = "t10k-images-idx3-ubyte"


def write(folder, packed=False, names=CONTENT):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(CONTENT[name]))
        else:
            (folder / name).write_bytes(CONTENT[name])
    return folder


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Makes an empty machine: no data set anywhere, and no network."""

    def no_network(root, download):
        raise URLError("no network")

    monkeypatch.setattr(fashion_mnist_files, "FILES", CHECKSUMS)
    monkeypatch.setattr(fashion_mnist_files, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist_files, "_repository_data", lambda: tmp_path / "repository")
    monkeypatch.setattr(datasets, "FashionMNIST", no_network)
    monkeypatch.setattr(fashion_mnist_files.shutil, "which", lambda name: None)
    monkeypatch.delenv("D2L_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize(("packed", "below"), [(True, ""), (False, "FashionMNIST/raw")])
def test_files_may_be_packed_or_not_and_lie_as_torchvision_lays_them(places, packed, below):
    write(places / "root" / below, packed)
    data = d2l.FashionMNIST(root=places / "root", train_size=2)
    assert data.train.data.flatten().tolist() == list(IMAGES[16 : 16 + 2 * 784])
    assert data.val.targets.tolist() == [0, 1, 2]


def test_order_of_the_search(places, monkeypatch):
    def found(root=places / "root"):
        return fashion_mnist_files.find_folder(root)

    assert found() is None
    write(places / "debian", packed=True)
    assert found() == places / "debian"
    write(places / "repository")
    assert found() == places / "repository"
    monkeypatch.setenv("D2L_DATA", str(write(places / "variable")))
    assert found() == places / "variable"
    write(places / "root", names=list(CONTENT)[:3])  # three of the four files are none
    assert found() == places / "variable"
    write(places / "root")
    assert found() == places / "root"
    monkeypatch.setenv("HOME", str(places))
    monkeypatch.setenv("USERPROFILE", str(places))  # Windows
    assert found("~/root") == places / "root"


def test_the_folder_of_the_repository(tmp_path, monkeypatch):
    assert fashion_mnist_files._repository_data() == Path(d2l.__file__).parents[1] / "data"
    installed = tmp_path / "site-packages" / "d2l_utils" / "fashion_mnist_files.py"
    monkeypatch.setattr(fashion_mnist_files, "__file__", str(installed))
    monkeypatch.chdir(tmp_path)
    assert fashion_mnist_files._repository_data() == tmp_path / "data"


def truncate(content):
    return content[:-1]


def alter(content):
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    ("packed", "damage", "message"),
    [
        (False, truncate, "{} is truncated or altered"),
        (False, alter, "{} is truncated or altered"),
        (True, truncate, r"{}\.gz cannot be unpacked"),
        (True, lambda _: b"", r"{}\.gz is truncated or altered"),
        (True, lambda _: b"<html>not found</html>", r"{}\.gz cannot be unpacked"),
        (True, lambda packed: packed[:30] + b"?????" + packed[35:], r"{}\.gz cannot be unpacked"),
        (True, lambda _: gzip.compress(alter(IMAGES)), r"{}\.gz is truncated or altered"),
    ],
)
def test_a_damaged_file_is_named(places, capsys, packed, damage, message):
    bad = write(places / "root", packed) / (f"{NAME}.gz" if packed else NAME)
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(ValueError, match=message.format(NAME)):
        d2l.FashionMNIST(root=places / "root", train_size=1)
    assert command.main(["--root", str(places / "root")]) == 1
    assert str(bad) in capsys.readouterr().err


def refuse(monkeypatch, method, refused):
    """Has the system forbid one path: as root, permissions alone would forbid nothing."""
    allowed = getattr(Path, method)

    def ask(path, *arguments, **options):
        if refused in (path, path.parent):
            raise PermissionError(13, "Permission denied")
        return allowed(path, *arguments, **options)

    monkeypatch.setattr(Path, method, ask)


@pytest.mark.parametrize(("method", "what"), [("read_bytes", NAME), ("stat", "")])
def test_what_may_not_be_read_is_named(places, monkeypatch, capsys, method, what):
    path = write(places / "root") / what
    refuse(monkeypatch, method, path)
    with pytest.raises(PermissionError, match=f"permission.*{path}"):
        d2l.FashionMNIST(root=places / "root", train_size=1)
    assert command.main(["--root", str(places / "root")]) == 1
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("value", ["~no-such-user/data", "no-such-folder", __file__])
def test_a_variable_that_names_no_folder_is_not_passed_over(places, monkeypatch, value):
    write(places / "debian")
    monkeypatch.setenv("D2L_DATA", value)
    with pytest.raises(FileNotFoundError, match=f"D2L_DATA is '{value}'"):
        d2l.FashionMNIST()
    monkeypatch.setenv("D2L_DATA", str(places))
    with pytest.raises(FileNotFoundError, match=f"D2L_DATA is '{places}'.*{places / 'debian'}"):
        d2l.FashionMNIST()
    monkeypatch.delenv("D2L_DATA")
    if value.startswith("~"):  # other roots may be made
        with pytest.raises(FileNotFoundError, match=f"root is '{value}'"):
            d2l.FashionMNIST(root=value)


APT_FAILS = subprocess.CompletedProcess((), 100, stderr="E: Unable to locate package\n")


@pytest.mark.parametrize("why", ["no network", "torchvision", "Unable to locate package"])
def test_a_missing_data_set_gives_one_error_that_lists_the_ways(places, monkeypatch, why):
    if why == "torchvision":  # is not installed
        monkeypatch.setitem(sys.modules, "torchvision", None)
    if why.startswith("Unable"):
        monkeypatch.setattr(fashion_mnist_files.shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(fashion_mnist_files.subprocess, "run", lambda *_, **__: APT_FAILS)
    ways = "was not found.*-m d2l_utils.*dataset-fashion-mnist.*D2L_DATA.*root="
    with pytest.raises(FileNotFoundError, match=f"(?s){ways}.* failed: .*{why}"):
        d2l.FashionMNIST(root=places / "root")
    assert [path for path in (places / "root").rglob("*") if path.is_file()] == []


def brings(content):
    """Returns what stands in for torchvision's download."""

    def download(root, download):
        for name in CONTENT:
            path = Path(root) / "FashionMNIST" / "raw" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(name))

    return download


@pytest.mark.parametrize("named_by", ["root", "variable", "nothing"])
def test_a_download_goes_to_the_first_place_named(places, monkeypatch, named_by):
    monkeypatch.setattr(datasets, "FashionMNIST", brings(CONTENT.get))
    if named_by == "variable":
        (places / "variable").mkdir()
        monkeypatch.setenv("D2L_DATA", str(places / "variable"))
    d2l.FashionMNIST(root=places / "root" if named_by == "root" else None, train_size=1)
    where = "repository" if named_by == "nothing" else named_by
    folder = places / where / "FashionMNIST" / "raw"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


@pytest.mark.parametrize("error", [FileNotFoundError, KeyboardInterrupt])
def test_a_download_that_arrives_damaged_or_not_at_all_is_not_kept(places, monkeypatch, error):
    def content(name):
        if name == NAME and error is KeyboardInterrupt:
            raise KeyboardInterrupt
        return truncate(CONTENT[name])

    monkeypatch.setattr(datasets, "FashionMNIST", brings(content))
    with pytest.raises(error):
        d2l.FashionMNIST(root=places / "root")
    assert [path for path in (places / "root").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("lists_are_there", [True, False])
def test_where_apt_is_there_the_debian_package_is_unpacked(places, monkeypatch, lists_are_there):
    commands = []

    def run(command, cwd, **options):
        commands.append(command[:2])
        own = any(part.startswith("Dir::State::Lists") for part in command)
        if command[1] == "download" and not (lists_are_there or own):
            return APT_FAILS
        if command[1] == "download":
            (cwd / "package.deb").write_bytes(b"")
        if command[0] == "dpkg":
            write(cwd / "unpacked/usr/share/datasets/fashion-mnist", packed=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(fashion_mnist_files.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(fashion_mnist_files.subprocess, "run", run)
    debian = Path("/usr/share/datasets/fashion-mnist")
    monkeypatch.setattr(fashion_mnist_files, "DEBIAN_FOLDER", debian)
    monkeypatch.setattr(fashion_mnist_files, "find_folder", lambda root: None)
    assert len(d2l.FashionMNIST(root=places / "root", train_size=2).train) == 2
    folder = places / "root" / "FashionMNIST" / "raw"
    assert {path.name for path in folder.iterdir()} == {f"{name}.gz" for name in CONTENT}
    update = [] if lists_are_there else [("apt-get", "update"), ("apt-get", "download")]
    assert commands == [("apt-get", "download"), *update, ("dpkg", "-x")]


PREPARE = """
import hashlib, sys, time, types
from pathlib import Path
from d2l_utils import data
from d2l_utils import fashion_mnist_files as files

source, root, me, other = map(Path, sys.argv[1:])
content = {name: (source / name).read_bytes() for name in files.FILES}
files.FILES = {name: hashlib.sha256(content[name]).hexdigest() for name in content}
files.DEBIAN_FOLDER, files._repository_data = root, lambda: root

def download(root, download):
    me.touch()
    while not other.exists():  # so that both are at it at the same time
        time.sleep(0.01)
    folder = Path(root) / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in content:
        (folder / name).write_bytes(content[name])
        time.sleep(0.05)

datasets = types.SimpleNamespace(FashionMNIST=download)
sys.modules["torchvision"] = types.SimpleNamespace(datasets=datasets)
for _ in range(20):
    assert len(data.FashionMNIST(root=root, train_size=2).train) == 2
assert me.exists(), "it did not download"
"""


def test_two_processes_that_prepare_it_at_once_do_no_harm(tmp_path):
    root, flags = tmp_path / "root", [tmp_path / "a", tmp_path / "b"]
    source = write(tmp_path / "source")
    environment = {k: v for k, v in os.environ.items() if k != "D2L_DATA"}
    options = {"env": environment, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([sys.executable, "-c", PREPARE, source, root, *order], **options)
        for order in (flags, flags[::-1])
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    folder = root / "FashionMNIST" / "raw"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


# --- the command ------------------------------------------------------------------------------


def test_the_command_checks(places, capsys):
    arguments = ["--check", "--root", str(places / "root")]
    assert command.main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == "" and "was not found" in output.err
    write(places / "root")
    assert command.main(arguments) == 0
    assert capsys.readouterr() == (f"Fashion-MNIST: {places / 'root'}\n", "")


def test_the_command_downloads(places, capsys, monkeypatch):
    monkeypatch.setattr(datasets, "FashionMNIST", brings(CONTENT.get))
    assert command.main(["--root", str(places / "root")]) == 0
    folder = places / "root" / "FashionMNIST" / "raw"
    assert capsys.readouterr().out == f"Fashion-MNIST: {folder}\n"


def test_the_command_runs_without_a_warning():
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "d2l_utils", "--check"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("Fashion-MNIST: ")
