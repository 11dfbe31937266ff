"""Fixtures of more than one file. And before torch is imported anywhere: one thread a process, since the tests
themselves run a process a core."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    from project_folder import write_images  # here: it imports torch

    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture
def project(tmp_path, images):
    from project_folder import Project

    return Project(tmp_path / "a project with späces", images)
