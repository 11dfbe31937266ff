"""Fixtures of several files. Set before torch is imported: one thread per process, since pytest runs one process per
core."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    from project_folder import write_images  # here, since it imports torch

    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture
def project(tmp_path, images):
    from project_folder import Project

    return Project(tmp_path / "a project with späces", images)
