"""Package metadata and dependencies; versions that were tested together stand in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="incasem-like",
    version="0.1.0",
    description="Experiment-tracked segmentation of 3-D microscopy volumes: train, predict, evaluate",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["incasem_like", "incasem_like.*"]),
    package_data={"incasem_like": ["py.typed", "**/*.html", "**/*.css"]},
    install_requires=[
        "ConfigArgParse>=1.7",
        "anycrc>=2.0",  # CRC-64 of mongodump's archives
        "bioimage-cpp>=0.10",
        "click>=8.1",
        "connected-components-3d>=4.1",
        "distributed>=2026.8",
        "GitPython>=3.1",
        "PyYAML>=6",
        "SQLAlchemy>=2",
        "funlib.geometry>=0.3",
        "fsspec>=2024.6",
        "gunpowder==1.4.4",
        "h5py>=3.12",
        "imagecodecs>=2025.3.30",
        "jinja2>=3.1",
        "lightning-fabric>=2.6",
        "matplotlib>=3.9",
        "mrcfile>=1.5",
        "networkx>=3.4",
        "neuroglancer>=2.41",
        "nibabel>=5.3",
        "numcodecs>=0.13",
        "numpy>=2",
        "optuna>=4",
        "pillow>=11",
        "psutil>=6",
        "pyarrow>=20",
        "pydantic>=2.11",
        "pymongo>=4.10",
        "requests>=2.31",
        "rich>=13",
        "sacred==0.8.7",
        "safetensors>=0.5",
        "scikit-image>=0.25",
        "scipy>=1.14",
        "setuptools>=77.0.3,<82",  # sacred imports pkg_resources, which setuptools 82 removed
        "tensorboard>=2.18",
        "tensorstore>=0.1.80",
        "tifffile>=2025.1.10",
        "torch>=2.8",
        "tornado>=6.4",
        "urllib3>=2.0",
        "waterz>=0.10",
        "zarr>=2.18,<3",  # gunpowder's pin; zarr-python is what Volume.as_zarr() hands out
    ],
    entry_points={"console_scripts": ["incasem-like = incasem_like.commands.cli:main"]},
    extras_require={
        "dashboard": ["bokeh>=3.1"],  # the pages of Dask's dashboard
        "docs": ["furo>=2025.9.25", "myst-parser>=5", "sphinx>=9", "sphinx-copybutton>=0.5.2"],
        "kimimaro": ["kimimaro>=5.8"],  # GPL, therefore never by default; skeletons
        "movies": ["imageio-ffmpeg>=0.5"],  # MP4; the wheel brings an ffmpeg program
        "napari": ["napari>=0.6", "PyQt6>=6.6"],  # PyQt6 is GPL; any other Qt that napari takes does as well
        "notebooks": ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"],
        "postgresql": ["psycopg2-binary>=2.9"],  # LGPL; graphs in PostgreSQL
        "test": [
            "bioimageio.spec>=0.5.14",  # validates the packages that models export writes
            "bokeh>=3.1",
            "hypothesis>=6",
            "imageio-ffmpeg>=0.5",
            "import-linter>=2.5",
            "ipykernel>=6.29",
            "mongomock>=4.3",
            "mypy>=1.15",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pre-commit>=4",
            "psycopg2-binary>=2.9",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "selenium>=4.20",
            "trimesh>=4",
            "types-PyYAML",
        ],
    },
)
