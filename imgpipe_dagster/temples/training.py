"""Making a model of a temple: pictures from the store, training, the contest with the champion, files, registry."""

import getpass
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.tables import TempleModelOrigin
from imgpipe_dagster.catalogue.temple_images import (
    COMMON,
    TempleNameError,
    TemplePicture,
    TrainingSet,
    check_category,
    check_temple_id,
    training_set,
)
from imgpipe_dagster.catalogue.temple_models import (
    LABELS_SEEN,
    ModelExistsError,
    NewVersion,
    TempleBusyError,
    Version,
    champion,
    end_lease,
    get_version,
    next_number,
    register,
    renew_lease,
    take_lease,
)
from imgpipe_dagster.models.temple_classifier import ModelFile, ModelFileError, TempleClassifier
from imgpipe_dagster.models.temple_cnn import TrainingHooks, TrainingOptions, TrainingStoppedError
from imgpipe_dagster.models.temple_input import InputFormat, LabelledPictures, input_format
from imgpipe_dagster.models.temple_legacy import take_over
from imgpipe_dagster.models.temple_report import TestReport, Verdict, compare, evaluate
from imgpipe_dagster.models.temple_training import (
    Stage,
    TrainedTemple,
    TrainingError,
    check_categories,
    check_memory,
    classifier_fingerprint,
    curve_as_lists,
    train_temple,
)
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.temples.logs import TempleLogs
from imgpipe_dagster.temples.pictures import LoadedPictures, Refused, load_first, load_pictures
from imgpipe_dagster.temples.registry import ModelFileChangedError, classifier_of, store_files

_RENEW_EVERY_S = 5.0
_TRAINING = threading.Lock()  # the seed is the process's: two trainings in its threads would take each other's numbers


@dataclass(frozen=True)
class ModelSettings:
    """How models of temples are made.

    Attributes:
        scale_factor: The first training picture's size times this is the input's.
        min_confidence: The probability below which a picture has no category.
        options: How to train.
    """

    scale_factor: float = 1 / 20
    min_confidence: float = 0.5
    options: TrainingOptions = field(default_factory=TrainingOptions)


@dataclass(frozen=True)
class MadeModel:
    """A model that was made and registered.

    Attributes:
        version: Its row.
        serves: It is the champion now.
        report: On the test pictures.
        champion_report: That of the champion it was compared with, on the same pictures; None if there was none.
        test: The test pictures in its format.
        unreadable: Pictures that could not be read and took no part.
        trained: The training; None for a model that was taken over.
    """

    version: Version
    serves: bool
    report: TestReport
    champion_report: TestReport | None
    test: LabelledPictures
    unreadable: tuple[Refused, ...]
    trained: TrainedTemple | None


def make_model(
    engine: Engine,
    store: ImageStore,
    temple_id: str,
    settings: ModelSettings,
    logs: TempleLogs,
    *,
    forceful: bool,
    by: str | None = None,
    hooks: TrainingHooks | None = None,
    on_stage: Callable[[Stage], None] = lambda _stage: None,
) -> MadeModel:
    """Train a model of a temple, test it, register it, and let it serve if it is not worse than the one that does.

    Nothing is registered before all files are durable: whoever is killed on the way leaves no half model.

    Args:
        engine: The catalogue.
        store: Where pictures are and files go.
        temple_id: Which temple.
        settings: How.
        logs: Where it is noted.
        forceful: Train although the temple has a model.
        by: Who wants it; default: this process's user.
        hooks: Whom to tell and to ask during training.
        on_stage: Called as each of the older system's stages is done.

    Raises:
        TempleNameError: The id cannot be a temple's.
        ModelExistsError: The temple has a model, and ``forceful`` is False.
        TempleBusyError: Another makes a model of it just now.
        TrainingError: Its pictures make no model; the message says why.
        TrainingStoppedError: ``hooks`` said so.
        StoreError: Pictures or files cannot be read or stored.
    """
    with logs.noting_errors(f"Training of {temple_id}"):
        return _make_model(engine, store, temple_id, settings, logs, forceful, by, hooks or TrainingHooks(), on_stage)


def import_model(
    engine: Engine,
    store: ImageStore,
    temple_id: str,
    files: tuple[bytes, bytes, bytes],
    settings: ModelSettings,
    logs: TempleLogs,
    *,
    by: str | None = None,
) -> MadeModel:
    """Take over a model that the older system trained; it serves if it is not worse than the one that does.

    Args:
        engine: The catalogue.
        store: Where test pictures are and files go.
        temple_id: Which temple.
        files: The bytes of ``model_architecture.json``, ``model_weights.h5`` and ``extra_info.json``.
        settings: For the least confidence.
        logs: Where it is noted.
        by: Who wants it.

    Raises:
        TempleNameError: The id cannot be a temple's, or a label cannot be a category's.
        ArchitectureError: The architecture has layers that are not taken.
        LegacyModelError: Weights or labels do not fit.
        TempleBusyError: Another makes a model of it just now.
    """
    temple_id = _own_temple(temple_id)
    with logs.noting_errors(f"Import of a model of {temple_id}"):
        taken = take_over(*files, min_confidence=settings.min_confidence)
        classifier = TempleClassifier.from_files(taken)
        for label in classifier.info.labels:
            check_category(label)
        with _lease(engine, temple_id) as lease:
            data = training_set(engine, temple_id)
            rival = _rival(engine, store, temple_id)
            tests = load_pictures(store, data.test, [classifier.info.form, *rival.forms])
            report = evaluate(classifier, tests[0].pictures)
            taken[ModelFile.REPORT] = report.to_json()
            contest = _contest(report, rival, tests, classifier)
            new = _new_version(engine, store, temple_id, TempleModelOrigin.IMPORTED, taken, classifier, report)
            return _register(engine, new, lease.owner, contest, report, tests, logs, by, None)


def _make_model(
    engine: Engine,
    store: ImageStore,
    temple_id: str,
    settings: ModelSettings,
    logs: TempleLogs,
    forceful: bool,
    by: str | None,
    hooks: TrainingHooks,
    on_stage: Callable[[Stage], None],
) -> MadeModel:
    temple_id = _own_temple(temple_id)
    with _lease(engine, temple_id) as lease:
        if not forceful and champion(engine, temple_id) is not None:
            raise ModelExistsError(f"{temple_id} has a model already: use --force (forceful) to train another.")
        data = training_set(engine, temple_id)
        check_categories(tuple(data.categories))
        form = _form(store, data, settings.scale_factor)
        check_memory(form, len(data.categories), len(data.train) + len(data.test), settings.options)
        (train,) = load_pictures(store, data.train, [form])
        on_stage(Stage.TRAINING_DATA)
        rival = _rival(engine, store, temple_id)
        tests = load_pictures(store, data.test, [form, *rival.forms])
        if len(tests[0].pictures):
            on_stage(Stage.TESTING_DATA)
        told = f"{len(train.pictures)} pictures to train on, {len(tests[0].pictures)} to test on"
        logs.status(f"{temple_id}: training begins with {told}.")
        trained = _train(train, tests[0], form, settings, hooks, on_stage, lease, temple_id)
        contest = _contest(trained.report, rival, tests, trained.classifier)
        new = _new_version(
            engine,
            store,
            temple_id,
            TempleModelOrigin.TRAINED,
            trained.files,
            trained.classifier,
            trained.report,
            data_fingerprint=data.fingerprint,
            train_images=len(train.pictures),
            trained_seconds=trained.seconds,
            metrics={
                "curve": curve_as_lists(trained.curve),
                "best_epoch": trained.best_epoch,
                "stopped_because": trained.stopped_because,
                "unreadable": len(train.unreadable) + len(tests[0].unreadable),
                "leaked": data.leaked,
                LABELS_SEEN: data.labels,
                "seed": settings.options.seed,
            },
        )
        unreadable = train.unreadable + tests[0].unreadable
        made = _register(
            engine, new, lease.owner, contest, trained.report, tests, logs, by, trained, unreadable=unreadable
        )
        on_stage(Stage.SAVED)
        return made


def _own_temple(temple_id: str) -> str:
    temple_id = check_temple_id(temple_id)
    if temple_id == COMMON:
        raise TempleNameError(f"{COMMON!r} is no temple: its pictures join the training of every other.")
    return temple_id


def _form(store: ImageStore, data: TrainingSet, scale_factor: float) -> InputFormat:
    first = data.first()
    ordered: list[TemplePicture] = [first] if first else []
    ordered += [picture for picture in data.train if picture is not first]
    picture = load_first(store, ordered)
    if picture is None:
        raise TrainingError(f"None of the {len(data.train)} training pictures of {data.temple_id} can be read.")
    return input_format(picture, scale_factor)


def _train(
    train: LoadedPictures,
    test: LoadedPictures,
    form: InputFormat,
    settings: ModelSettings,
    hooks: TrainingHooks,
    on_stage: Callable[[Stage], None],
    lease: "_Lease",
    temple_id: str,
) -> TrainedTemple:
    watched = TrainingHooks(hooks.on_epoch, lambda: lease.lost.is_set() or hooks.should_stop())
    try:
        with _TRAINING:
            return train_temple(
                train.pictures,
                test.pictures,
                form,
                options=settings.options,
                min_confidence=settings.min_confidence,
                hooks=watched,
                on_stage=on_stage,
            )
    except TrainingStoppedError as error:
        if lease.lost.is_set():
            raise TempleBusyError(f"Another has begun to make a model of {temple_id}; this one is not kept.") from error
        raise


@dataclass(frozen=True)
class _Rival:
    """The champion that a new model must not be worse than."""

    version: str | None = None
    classifier: TempleClassifier | None = None
    broken: str | None = None

    @property
    def forms(self) -> list[InputFormat]:
        return [self.classifier.info.form] if self.classifier else []


@dataclass(frozen=True)
class _Contest:
    over: str | None
    verdict: Verdict
    report: TestReport | None


def _rival(engine: Engine, store: ImageStore, temple_id: str) -> _Rival:
    serving = champion(engine, temple_id)
    if serving is None:
        return _Rival()
    try:
        classifier = classifier_of(store, get_version(engine, temple_id, serving.version))
    except (ModelFileChangedError, ModelFileError) as error:
        return _Rival(serving.version, broken=str(error))
    return _Rival(serving.version, classifier)


def _contest(report: TestReport, rival: _Rival, tests: list[LoadedPictures], challenger: TempleClassifier) -> _Contest:
    champions = None
    if rival.broken:
        doubt = f" {report.doubt}" if report.doubt else ""
        verdict = Verdict(True, f"The champion cannot be used. {rival.broken}{doubt}")
    else:
        champions = evaluate(rival.classifier, tests[1].pictures) if rival.classifier else None
        verdict = compare(report, champions)
    why = " ".join(filter(None, [verdict.why, challenger.blind_spots]))
    return _Contest(rival.version, Verdict(verdict.promote, why), champions)


def _new_version(
    engine: Engine,
    store: ImageStore,
    temple_id: str,
    origin: TempleModelOrigin,
    files: Mapping[str, bytes],
    classifier: TempleClassifier,
    report: TestReport,
    *,
    data_fingerprint: str | None = None,
    train_images: int = 0,
    trained_seconds: float = 0.0,
    metrics: Mapping[str, Any] | None = None,
) -> NewVersion:
    """Put the files where they stay, and say what is to be registered."""
    number = next_number(engine, temple_id)
    version = f"{number}-{classifier_fingerprint(files)}"
    info = classifier.info
    return NewVersion(
        temple_id=temple_id,
        version=version,
        number=number,
        origin=origin,
        data_fingerprint=data_fingerprint,
        files=store_files(store, temple_id, version, files),
        labels=list(info.labels),
        input_height=info.form.height,
        input_width=info.form.width,
        train_images=train_images,
        test_images=report.pictures + sum(scenes.pictures for scenes in report.unknown),
        trained_seconds=trained_seconds,
        metrics={**report.as_dict(), **(metrics or {})},
    )


def _register(
    engine: Engine,
    new: NewVersion,
    owner: str,
    contest: _Contest,
    report: TestReport,
    tests: list[LoadedPictures],
    logs: TempleLogs,
    by: str | None,
    trained: TrainedTemple | None,
    *,
    unreadable: tuple[Refused, ...] = (),
) -> MadeModel:
    serves = register(
        engine,
        new,
        owner=owner,
        verdict=contest.verdict.why,
        promote_over=contest.over,
        promote=contest.verdict.promote,
        by=by or user_name(),
    )
    version = get_version(engine, new.temple_id, new.version)
    logs.status(
        f"{new.temple_id}: model {new.version} is {'champion' if serves else 'a challenger'}. {version.verdict}"
    )
    return MadeModel(version, serves, report, contest.report, tests[0].pictures, unreadable, trained)


def user_name() -> str:
    """Who runs this process, as far as the system knows."""
    try:
        return getpass.getuser()[:100]
    except (OSError, KeyError):  # an account without a name, as in some containers
        return "unknown"


@dataclass(frozen=True)
class _Lease:
    owner: str
    lost: threading.Event


@contextmanager
def _lease(engine: Engine, temple_id: str) -> Iterator[_Lease]:
    """Be the one who makes a model of a temple while the block runs; a thread tells that the work goes on."""
    owner = take_lease(engine, temple_id)
    lost, done = threading.Event(), threading.Event()

    def renew() -> None:
        while not done.wait(_RENEW_EVERY_S):
            try:
                held = renew_lease(engine, temple_id, owner)
            except SQLAlchemyError:
                held = False  # a minute without the catalogue: others may have taken the lease
            if not held:
                lost.set()
                return

    thread = threading.Thread(target=renew, name=f"lease-{temple_id}", daemon=True)
    thread.start()
    try:
        yield _Lease(owner, lost)
    finally:
        done.set()
        thread.join()
        end_lease(engine, temple_id, owner)
