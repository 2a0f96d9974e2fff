"""Packaging: metadata, dependency ranges, extras and the console script."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = (HERE / "README.md").read_text(encoding="utf-8")
# the one place that says where the repository is published: `repository-code: https://...` there, once it is
PUBLISHED = re.search(r"^repository-code: *(\S+)", (HERE / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)


def long_description(readme: str, repository: str | None) -> str:
    """README as a package index shows it, where its links to files lead nowhere: to the repository, or text alone."""
    relative = r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)"
    if repository is None:
        return re.sub(relative, lambda link: "" if link[1] else link[2], readme)
    return re.sub(
        relative,
        lambda link: f"{link[1]}[{link[2]}]({repository}/{'raw' if link[1] else 'blob'}/main/{link[3]})",
        readme,
    )


REPOSITORY = PUBLISHED[1].rstrip("/") if PUBLISHED else None
URLS = {
    "Unpaired translation (Zhu et al. 2017)": "https://arxiv.org/abs/1703.10593",
    "Gradient consistency (Hiasa et al. 2018)": "https://arxiv.org/abs/1803.06629",
}
if REPOSITORY:
    places = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md", "Models": "saved_models/README.md"}
    URLS |= {"Source": REPOSITORY, "Issues": f"{REPOSITORY}/issues"}
    URLS |= {name: f"{REPOSITORY}/blob/main/{path}" for name, path in places.items()}

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
    long_description=long_description(README, REPOSITORY),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    author="The cyclescan maintainers",
    project_urls=URLS,
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["cyclescan*", "data_prep*"]), "cyclescan.pretrained_models"],
    package_dir={"cyclescan.pretrained_models": "saved_models"},
    package_data={
        "cyclescan": ["py.typed"],
        "cyclescan.common": ["*.j2"],
        "cyclescan.planning": ["*.j2"],
        "cyclescan.reporting": ["*.j2"],
        "cyclescan.scans.viewer": ["*.j2", "*.js", "*.css"],
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
        # what shells complete, made once from the parsers; pure Python, no dependencies
        "shtab>=1.7",
    ],
    extras_require={
        "docs": DOCS,
        "cuda": ["tensorflow[and-cuda]>=2.21,<2.22"],
        # agreement of measurements; its table of intraclass correlations has had its present names since 0.6
        "endpoints": ["pingouin>=0.6"],
        # X-rays computed by exact ray tracing (a program in a wheel, for CPUs), and the search for a bone's pose
        "plan": ["plastimatch>=1.10", "cma>=4"],
        "onnx": ["onnx>=1.19", "onnxruntime>=1.20"],
        # ipyniivue: what `cyclescan.show` draws with; it carries its JavaScript along and asks no server
        "notebooks": ["jupyterlab>=4", "ipykernel>=6", "ipywidgets>=8", "ipyniivue>=2.4"],
        "test": [
            "plastimatch>=1.10",
            "cma>=4",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6",
            "ipywidgets>=8",
            "ipyniivue>=2.4",
            "nilearn>=0.11",
            "highdicom>=0.27",
            "onnx>=1.19",
            "onnxruntime>=1.20",
            "jsonschema>=4.20",
            "pyyaml>=6",
            "ruff>=0.8",
            "hypothesis>=6.100",
            # models and losses must run without TensorFlow
            "jax>=0.6",
            *DOCS,
            "pingouin>=0.6",
            "mypy>=1.13",
            "pytest-cov>=6",
            # wheel and sdist, and whether a package index would show what they say of themselves
            "build>=1.2",
            "twine>=6.1",
            # hooks of .pre-commit-config.yaml, beside ruff
            "pre-commit>=4",
            "nbstripout>=0.8",
        ],
    },
    entry_points={"console_scripts": ["cyclescan = cyclescan.__main__:main"]},
    keywords=[
        "MRI",
        "CT",
        "medical imaging",
        "image translation",
        "image synthesis",
        "synthetic CT",
        "CycleGAN",
        "unpaired",
        "U-Net",
        "knee",
        "DESS",
        "CISS",
        "DICOM",
        "NIfTI",
        "ONNX",
        "3D Slicer",
        "TensorFlow",
        "Keras",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Framework :: Jupyter",
        "Intended Audience :: Developers",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
)
