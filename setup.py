"""Packaging: metadata, dependency ranges, extras and the console script."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

DOCS = [
    # the site of docs/: its theme ends at MkDocs 1
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6",
    # docstrings as pages, read without importing the package
    "mkdocstrings[python]>=0.30",
    # equations as MathML, which needs no script from elsewhere
    "latex2mathml>=3.77",
]

setup(
    name="cyclescan",
    version=re.search(r'__version__ = "(.+)"', (HERE / "cyclescan/__init__.py").read_text()).group(1),
    description="Unpaired translation of 3-D medical volumes between contrasts: CISS, DESS, CT",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["cyclescan*", "data_prep*"]), "cyclescan.pretrained_models"],
    package_dir={"cyclescan.pretrained_models": "saved_models"},
    package_data={
        "cyclescan": ["py.typed"],
        "cyclescan.common": ["*.j2"],
        "cyclescan.planning": ["*.j2"],
        "cyclescan.reporting": ["*.j2"],
        "cyclescan.pretrained_models": ["*/*", "*/checkpoints/*/*"],
        "data_prep": ["*.j2", "py.typed"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.12,<4",
        "numpy>=1.26",
        "scipy>=1.11",
        "nibabel>=5.2",
        "pydicom>=3.0",
        # decompresses DICOM: JPEG, JPEG-LS, JPEG 2000 and RLE; BSD, wheels for Python 3.10 to 3.13, 12 to 45 MB
        "imagecodecs>=2025.3.30",
        "isal>=1.7",
        "matplotlib>=3.8",
        "scikit-image>=0.24",
        "SimpleITK>=2.4",
        "apache-beam>=2.70",
        # Beam imports it wherever a pipeline is built inside a notebook, and Beam 2.77 cannot with pandas 3
        "pandas>=2,<3",
        "google-crc32c>=1.5",
        "threadpoolctl>=3.2",
        # messages of TensorFlow Serving, of the same version as TensorFlow; the server itself is no Python package
        "tensorflow-serving-api>=2.21,<2.22",
        "grpcio>=1.66",
        "tensorboard>=2.19",
        "jinja2>=3.1",
        "tqdm>=4.66",
    ],
    extras_require={
        "docs": DOCS,
        "cuda": ["tensorflow[and-cuda]>=2.21,<2.22"],
        # agreement of measurements; its table of intraclass correlations has had its present names since 0.6
        "endpoints": ["pingouin>=0.6"],
        # X-rays computed by exact ray tracing (a program in a wheel, for CPUs), and the search for a bone's pose
        "plan": ["plastimatch>=1.10", "cma>=4"],
        "onnx": ["onnx>=1.19"],
        "notebooks": ["jupyterlab>=4", "ipykernel>=6", "ipywidgets>=8"],
        "test": [
            "plastimatch>=1.10",
            "cma>=4",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6",
            "nilearn>=0.11",
            "highdicom>=0.27",
            "onnx>=1.19",
            "onnxruntime>=1.20",
            "pyyaml>=6",
            "ruff>=0.8",
            "hypothesis>=6.100",
            # models and losses must run without TensorFlow
            "jax>=0.6",
            *DOCS,
            "pingouin>=0.6",
            "mypy>=1.13",
            "pytest-cov>=6",
            # hooks of .pre-commit-config.yaml, beside ruff
            "pre-commit>=4",
            "nbstripout>=0.8",
        ],
    },
    entry_points={"console_scripts": ["cyclescan = cyclescan.__main__:main"]},
    keywords=["MRI", "CT", "image translation", "image synthesis", "CycleGAN", "unpaired", "knee", "DICOM", "NIfTI"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
