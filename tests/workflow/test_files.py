"""Which files a command may replace, go on with, or write beside its own."""

from __future__ import annotations

import pytest
import torch

from common.interrupt import STARTED_ANEW
from configs.arguments import parse_assignments
from configs.load import load
from prune_utils.methods import METHODS
from tests import tiny
from tests.dataloaders import small
from training.resume import OtherRun, checkpoint_paths
from workflow import launch as launching
from workflow.create import create, refuse_create
from workflow.experiment import experiment_name, open_experiment
from workflow.files import Options, refuse_existing
from workflow.launch import launch, refuse_launch
from workflow.networks import load_network, new_network, published, save_network
from workflow.running import Run

STEPS = ("optim.iterations=2", "finetune.iterations=2", "run.checkpoint_every=1", "prune.num_batches=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return small.nyuv2(tmp_path_factory.mktemp("data"), 8)


@pytest.fixture
def experiment(root, tmp_path):
    """experiment(method, name, further settings) writes to the test's folder."""

    def make(method, name=None, *more):
        flags = parse_assignments([*tiny.RUN, *STEPS, f"data.root={root}", *more])
        return open_experiment(load("nyuv2", flags=flags), method, str(tmp_path / "out"), name)

    return make


def without(path, field):
    """The file as an earlier version wrote it."""
    content = torch.load(path, weights_only=True)
    del content[field]
    torch.save(content, path)


# ------------------------------------------------------------------------- whose run it is
def test_a_finished_file_of_another_method_is_refused_by_name(experiment):
    create(experiment("random", "y"), METHODS["random"], Options())
    path, again = experiment("random", "y").pruned_path, Options(resume=True)
    refuse_create(experiment("random", "y"), again)
    with pytest.raises(OtherRun, match=r"y.pth was started with --method random, this command says snip: "):
        create(experiment("snip", "y"), METHODS["snip"], again)
    without(path, "method")  # earlier versions did not tell it
    refuse_create(experiment("snip", "y"), again)


def test_a_finished_run_of_another_method_is_refused_by_name(experiment):
    one = experiment("set", "x")
    save_network(one, one.final_path, new_network(one))
    with pytest.raises(
        OtherRun, match=r"final_x.pth was started with --method set, this command says rigl: "
    ):
        launch(experiment("rigl", "x"), METHODS["rigl"], Options(resume=True))


@pytest.mark.parametrize("refuse", [refuse_create, refuse_launch])
def test_to_go_on_and_to_start_anew_are_not_asked_for_together(refuse, experiment):
    with pytest.raises(ValueError, match="^--resume goes on .* --overwrite starts anew: give one of them"):
        refuse(experiment("set"), Options(resume=True, overwrite=True))


def test_a_dense_file_is_no_sparse_network_that_was_made_before(experiment):
    dense = experiment("baseline")
    save_network(dense, dense.final_path, new_network(dense))
    without(dense.final_path, "method")
    with pytest.raises(ValueError, match="final_nyuv2_baseline.pth holds a dense network, no sparse one"):
        create(experiment("random", "final_nyuv2_baseline"), METHODS["random"], Options(resume=True))


def test_advice_names_resume_only_where_there_is_such_a_flag(tmp_path):
    (tmp_path / "a.json").touch()
    with pytest.raises(ValueError) as error:
        refuse_existing([tmp_path / "a.json"], Options())
    assert str(error.value).endswith("exists already: --overwrite replaces it, --name or --dest keeps both")


@pytest.mark.parametrize("file", ["best_x.pth", "final_x.pth"])
@pytest.mark.parametrize("more", [{"overwrite": True}, {"resume": True}])
def test_a_run_does_not_start_from_a_file_that_it_writes(file, more, experiment):
    dense = experiment("baseline", "x")
    save_network(dense, dense.dest / file, new_network(dense))
    with pytest.raises(ValueError, match=f"^--init-from .*{file} is a file of x itself, which would be lost"):
        launch(dense, None, Options(init_from=str(dense.dest / file), **more))
    assert [path.name for path in dense.dest.iterdir()] == [file]


# ------------------------------------------------------------------------- a run that starts anew
class Killed(BaseException):
    """Unwinds everything, as a kill would end it."""


@pytest.mark.parametrize("method", ["baseline", "imp"])
def test_a_run_that_starts_anew_and_is_killed_early_does_not_pass_for_the_old_one(
    method, experiment, monkeypatch
):
    """Before its first checkpoint, too: what --overwrite replaces is gone when the first step begins."""
    dense = experiment("baseline")
    launch(dense, None, Options())
    work, one, row, path = launch, dense, None, dense.final_path
    if method == "imp":
        one = experiment("imp", None, "prune.rounds=2", "prune.round_iterations=1")
        work, row, path = create, METHODS["imp"], one.pruned_path
    work(one, row, Options(overwrite=True))
    before = path.read_bytes()

    def stop(run, step):
        raise Killed

    STARTED_ANEW.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_keep_early_weights", stop)
        with pytest.raises(Killed):
            work(one, row, Options(overwrite=True))
    assert STARTED_ANEW.is_set() and not path.exists()
    text, _ = work(one, row, Options(resume=True))
    assert "finished before" not in text and path.read_bytes() == before


def test_a_run_that_goes_on_removes_nothing(experiment, monkeypatch):
    dense = experiment("baseline")
    launch(dense, None, Options())
    STARTED_ANEW.clear()
    text, files = launch(dense, None, Options(resume=True))
    assert "was finished before" in text and all(path.is_file() for path, _ in files)
    assert not STARTED_ANEW.is_set()


# ------------------------------------------------------------------------- the published form
@pytest.mark.parametrize(
    "file", ["x.pth", "best_x.pth", "final_x.pth", "x_training.csv", "rewind_x_step0.pth"]
)
def test_the_published_form_never_replaces_a_file_of_the_run(file, experiment):
    dense = experiment("baseline", "x")
    given = Options(export_published=f"{dense.dest}/../out/{file}", overwrite=True)
    with pytest.raises(ValueError, match=f"^--export-published .*{file} is a file of x itself"):
        launch(dense, None, given)
    assert not dense.dest.exists()


@pytest.mark.parametrize("file", ["y.pth", "best_y.pth", "final_y.pth"])
def test_nor_one_of_the_network_that_is_made(file, experiment):
    made = experiment("random", "y")
    with pytest.raises(ValueError, match=f"{file} is a file of y itself"):
        create(made, METHODS["random"], Options(export_published=f"{made.dest}/{file}", overwrite=True))


def test_a_file_that_is_there_is_replaced_with_overwrite_only(experiment, tmp_path):
    path = tmp_path / "there.pth"
    path.write_text("precious")
    for refuse in (refuse_create, refuse_launch):
        with pytest.raises(ValueError, match="there.pth exists already: --overwrite replaces it"):
            refuse(experiment("set"), Options(export_published=str(path)))
        refuse(experiment("set"), Options(export_published=str(path), overwrite=True))
    assert path.read_text() == "precious"


def test_a_finished_run_is_exported_when_it_is_resumed(experiment, tmp_path):
    made, path = experiment("random"), tmp_path / "made.pth"
    create(made, METHODS["random"], Options())
    given = Options(resume=True, export_published=str(path))
    for _ in range(2):  # the second time it holds the network already
        files = create(made, METHODS["random"], given)[1]
        assert [said for _, said in files] == [
            "made before, unchanged",
            "the same network in the published form",
        ]
    assert_published(path, made, made.pruned_path)
    launch(made, METHODS["random"], Options())
    trained = tmp_path / "trained.pth"
    launch(made, METHODS["random"], Options(resume=True, export_published=str(trained)))
    assert_published(trained, made, made.best_path)
    with pytest.raises(
        ValueError, match="made.pth exists already and does not hold .*best_nyuv2_random_90.pth"
    ):
        launch(made, METHODS["random"], given)
    assert_published(path, made, made.pruned_path)


def assert_published(path, experiment, source):
    saved, found = load_network(experiment, source), torch.load(path, weights_only=True)
    expected = published(saved.network, saved.mask)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_a_kill_before_the_end_keeps_from_being_written_is_written_when_resumed(
    experiment, tmp_path, monkeypatch
):
    dense, path = experiment("baseline"), tmp_path / "published.pth"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(launching, "exported", killed)
        with pytest.raises(KeyboardInterrupt):
            launch(dense, None, Options(export_published=str(path)))
    stem = launching.training_stem(dense)
    assert checkpoint_paths(dense.dest, stem) and not path.exists()
    launch(dense, None, Options(resume=True, export_published=str(path)))
    assert not checkpoint_paths(dense.dest, stem)
    assert_published(path, dense, dense.best_path)


def test_the_ratio_stands_in_a_name_without_loss():
    names = [experiment_name("nyuv2", "snip", ratio) for ratio in (90, 99.5, 99.99999)]
    assert names == ["nyuv2_snip_90", "nyuv2_snip_99.5", "nyuv2_snip_99.99999"]
