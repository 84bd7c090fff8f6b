"""What building costs: `python3 benches/build.py [FOLDER]`, in a fresh clone of this repository, about half an hour on two cores.

Wall-clock and CPU seconds of what a newcomer and a maintainer wait for: the first build, the tests after it, an edited line of the
reference, an edited sentence and an edited setting of a chapter. Each line is checked before it counts: what should compile does, what
should not does not. The machine should be idle otherwise. Writes a table, and the same as JSON to FOLDER/build.json (default: nowhere).
"""

import json, os, pathlib, resource, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHAPTER = "schedules"


def timed(command, cwd):
    """Wall-clock and CPU seconds of a command that has to succeed, and what it said."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = done.stdout + done.stderr
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{said[-4000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, said


def edited(path, old, new):
    text = path.read_text()
    if old not in text:
        sys.exit(f"{path} does not hold {old!r}: put in what it holds now")
    path.write_text(text.replace(old, new, 1))


def main():
    rows = []

    def row(what, wall, cpu):
        rows.append({"what": what, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1)})
        print(f"{what:72} {wall:8.1f} s {cpu:8.1f} s of CPU", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        clone, cache = pathlib.Path(folder) / "clone", pathlib.Path(folder) / "cache"
        os.environ["XDG_CACHE_HOME"] = str(cache)
        os.environ.pop("CARGO_TARGET_DIR", None)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        subprocess.run(["cargo", "fetch", "-q", "--locked"], cwd=clone, check=True)

        wall, cpu, _ = timed(["cargo", "build", "--release"], clone)
        row("cargo build --release, first", wall, cpu)

        wall, cpu, said = timed(["cargo", "test", "--release", "--no-run"], clone)
        row("cargo test --release after it, until the tests are built", wall, cpu)
        more, work, said = timed(["cargo", "test", "--release"], clone)
        row("cargo test --release after it, whole", wall + more, cpu + work)
        assert "test result: ok" in said and "FAILED" not in said

        core = ["cargo", "test", "--release", "-p", "tweedie", "--features", "fast", "--lib"]
        timed(core, clone)
        edited(clone / "src/tweedie/src/exact/vae.rs", "use crate::", "// Edited.\nuse crate::")
        wall, cpu, said = timed(core, clone)
        assert "Compiling tweedie " in said
        row("an edited line of exact/, until the reference's tests have run", wall, cpu)
        edited(clone / "src/tweedie/src/exact/vae.rs", "// Edited.\n", "")
        timed(["cargo", "build", "--release"], clone)

        report = ["cargo", "run", "--release", "--", "report", CHAPTER]
        timed(report, clone)
        edited(clone / f"experiments/{CHAPTER}/text.md", "It makes a good exercise.", "Try it.")
        wall, cpu, said = timed(report, clone)
        assert "Compiling" not in said and "kept" in said, said
        assert "Try it." in (clone / "reports/index.html").read_text()
        row(f"an edited sentence of {CHAPTER}, until its page is there", wall, cpu)

        edited(clone / f"experiments/{CHAPTER}/settings.toml", "walk = 100", "walk = 120")
        wall, cpu, said = timed(report, clone)
        assert "Compiling" not in said and "kept" not in said, said
        row(f"an edited setting of {CHAPTER}, until its page is there", wall, cpu)

        tree = ["cargo", "tree", "-p", "tweedie", "-e", "normal", "--prefix", "none"]
        said = subprocess.run(tree, cwd=clone, capture_output=True, text=True, check=True).stdout
        packages = len({line.split(" (")[0] for line in said.splitlines()})
        print(f"packages that a user of the reference gets: {packages}")

    if len(sys.argv) > 1:
        out = pathlib.Path(sys.argv[1])
        out.mkdir(parents=True, exist_ok=True)
        document = {"cores": os.cpu_count(), "rows": rows, "packages": packages}
        (out / "build.json").write_text(json.dumps(document, indent=2) + "\n")


main()
