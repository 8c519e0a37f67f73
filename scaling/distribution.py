"""The name of the package's distribution, and whether another distribution overwrites its files."""

DISTRIBUTION = "scaling-ladder"
"""name on the package index, where `scaling` is another project with a package folder of the same name"""
MEND = f"pip uninstall scaling, then pip install --force-reinstall --no-deps {DISTRIBUTION}"


def with_extra(name: str) -> str:
    """The command that installs the package with an optional extra."""
    return f"pip install '{DISTRIBUTION}[{name}]'"


def others() -> list[str]:
    """Other distributions that have put files into the folder of this package, with their versions."""
    from importlib.metadata import packages_distributions, version

    names = set(packages_distributions().get("scaling", ())) - {DISTRIBUTION}
    return [f"{name} {version(name)}" for name in sorted(names)]
