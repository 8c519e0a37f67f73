"""What the package is called where it is installed from, and whether another one lies over it."""

DISTRIBUTION = "scaling-ladder"
"""on the package index, where `scaling` is another project, whose files lie in a folder of the same name"""
MEND = f"pip uninstall scaling, then pip install --force-reinstall --no-deps {DISTRIBUTION}"


def with_extra(name: str) -> str:
    """What installs the package with a part that not all need."""
    return f"pip install '{DISTRIBUTION}[{name}]'"


def others() -> list[str]:
    """Other distributions that have put files into the folder of this package, with their versions."""
    from importlib.metadata import packages_distributions, version

    names = set(packages_distributions().get("scaling", ())) - {DISTRIBUTION}
    return [f"{name} {version(name)}" for name in sorted(names)]
