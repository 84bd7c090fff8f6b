"""Mutation tests of the layers below sampling: every mutant of `cargo mutants`, all of them in one test binary.

A build for each mutant would take a day. Here each mutated expression becomes a choice made at run time,
`if mutant::on(17) { a - b } else { a + b }`, so that the crate is built once (with the mutants that do not compile found by
`cargo check` and taken out), each test is run once to see which mutants it reaches, and each mutant is run with the tests that
reach it, the quickest first, until one fails. The assembled crate (assemble.sh) holds the layers and their tests.

    python tests/mutants/mutants.py            all of math, diffusion, law and exact
    python tests/mutants/mutants.py law exact  the files whose path holds one of these words

Linux only. Exit 1 if a mutant survives. Mutants that no test can tell from the original are listed, each with its reason, in .cargo/mutants.toml,
which `cargo mutants` reads; those that no run can switch (constants, struct fields) are left to it and printed at the end.
"""

import json, os, re, resource, shutil, subprocess, sys, threading, time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tree_sitter, tree_sitter_rust

ROOT = Path(__file__).resolve().parents[2]
PLAIN, CRATE = ROOT / "target/mutants/crate", ROOT / "target/mutants/switched"
SEED = dict(PROPTEST_RNG_SEED="20260101", PROPTEST_MAX_SHRINK_ITERS="0", PROPTEST_DISABLE_FAILURE_PERSISTENCE="true")

# The switch. Mutant 0 is none: it records which switches a test passes. A panic ends the process, so that the first failed test does.
SWITCH = r"""
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
static ACTIVE: AtomicU32 = AtomicU32::new(u32::MAX);
static HIT: [AtomicU8; 1 << 14] = [const { AtomicU8::new(0) }; 1 << 14];
unsafe extern "C" { fn _exit(code: i32) -> !; }
#[cold]
fn hit(id: u32) -> bool { HIT[id as usize].store(1, Relaxed); false }
#[inline(always)]
pub fn on(id: u32) -> bool { let active = ACTIVE.load(Relaxed); active == id || (active == 0 && hit(id)) }
extern "C" fn begin() {
    if let Ok(id) = std::env::var("MUTANT") { ACTIVE.store(id.parse().unwrap(), Relaxed); }
    std::panic::set_hook(Box::new(|info| { eprintln!("{info}"); unsafe { _exit(101) } }));
}
extern "C" fn end() {
    if let Ok(path) = std::env::var("MUTANTS_REACHED") {
        let ids: Vec<_> = (0..HIT.len()).filter(|&i| HIT[i].load(Relaxed) != 0).map(|i| i.to_string()).collect();
        std::fs::write(path, ids.join(" ")).unwrap();
    }
}
#[used] #[unsafe(link_section = ".init_array")] static BEGIN: extern "C" fn() = begin;
#[used] #[unsafe(link_section = ".fini_array")] static END: extern "C" fn() = end;
"""


def on(mutant):
    return f"crate::mutant::on({mutant['id']})"


def is_number(node):
    if node.type == "unary_expression":
        node = node.children[-1]
    return node.type in ("integer_literal", "float_literal")


class File:
    """One source file and the mutants of its syntax tree's nodes."""

    def __init__(self, path, mutants):
        self.text = path.read_bytes()
        self.lines = self.text.split(b"\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language())).parse(self.text)
        self.at, self.fixed = defaultdict(list), []
        for m in mutants:
            node = self.node(m)
            (self.fixed if node is None else self.at[node.id]).append(m)

    def offset(self, place):
        line = self.lines[place["line"] - 1].decode()
        return self.starts[place["line"] - 1] + len(line[: place["column"] - 1].encode())

    def node(self, m):
        """The node that the mutant replaces; None where no value at run time can choose it."""
        if m["genre"] == "FnValue" and "impl " in (m["function"]["return_type"] or ""):
            return None  # An opaque type is that of one value, the original's or the mutant's.
        start, end = self.offset(m["span"]["start"]), self.offset(m["span"]["end"])
        node = self.tree.root_node.descendant_for_byte_range(start, end)
        up = node
        while up is not None and up.type != "function_item":
            if up.type in ("const_item", "static_item", "const_block"):
                return None
            up = up.parent
        kinds = {
            "FnValue": ("block",),
            "BinaryOperator": ("binary_expression", "compound_assignment_expr"),
            "UnaryOperator": ("unary_expression",),
            "MatchArm": ("match_arm",),
            "MatchArmGuard": ("match_arm",),
        }.get(m["genre"])
        # An `&&` of a let chain is in no expression, and has no other operator to be.
        while kinds and node is not None and not (node.type in kinds and (m["genre"] != "FnValue" or node.parent.type == "function_item")):
            node = node.parent
        return node if kinds else None

    def original(self, node):
        out, end = [], node.start_byte
        for child in node.children:
            out += [self.text[end : child.start_byte].decode(), self.switched(child)]
            end = child.end_byte
        return "".join(out) + self.text[end : node.end_byte].decode()

    def switched(self, node):
        """The node's source with its mutants behind switches; each operand is written once, whatever the nesting."""
        mutants = self.at.get(node.id)
        if not mutants:
            return self.original(node)

        # A line for each mutant: an error of the compiler names the mutants of its line, or of the nearest tag.
        def choice(of, otherwise):
            return "".join(f"\nif {on(m)} {{ {of(m['replacement'])} }} else" for m in mutants) + f"\n{{ {otherwise} }}"

        tag = "\n/*mutants " + " ".join(str(m["id"]) for m in mutants) + "*/ "
        if node.type == "block":
            returns = ("" if m["replacement"] == "()" else m["replacement"] for m in mutants)
            return "{" + "".join(f"\nif {on(m)} {{ return {r}; }}\n" for m, r in zip(mutants, returns)) + self.original(node)[1:]
        if node.type == "unary_expression":
            sign, value = node.children[0].text.decode(), self.switched(node.children[-1])
            return f"({tag}match ({value}) {{ __v => {choice(lambda _: '__v', sign + '__v')} }})"
        if node.type == "match_arm":
            pattern, value = node.child_by_field_name("pattern"), node.child_by_field_name("value")
            condition = pattern.child_by_field_name("condition")
            guard = "true" if condition is None else f"({self.switched(condition)})"
            end = pattern.end_byte if condition is None else condition.start_byte
            for m in mutants:
                if m["genre"] == "MatchArm":
                    guard = f"(!\n{on(m)}\n && {guard})"
                else:
                    guard = f"(if\n{on(m)}\n {{ {m['replacement']} }} else {{ {guard} }})"
            head = re.sub(r"\bif\s*$", "", self.text[pattern.start_byte : end].decode())
            return f"{tag}{head} if {guard} => {self.switched(value)}" + self.text[value.end_byte : node.end_byte].decode()
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        op, (l, r) = node.child_by_field_name("operator").text.decode(), (self.switched(left), self.switched(right))
        if node.type == "compound_assignment_expr":
            return f"({tag}match ({r}) {{ __r => {{ {choice(lambda o: f'{l} {o} __r', f'{l} {op} __r')} }} }})"
        if op in ("&&", "||"):
            # The second operand is evaluated if the first is true (&&) or false (||); the mutant is the other of the two.
            first = "__l" if op == "&&" else "!__l"
            return f"({tag}match ({l}) {{ __l => if ({first}) !=\n{on(mutants[0])}\n {{ {r} }} else {{ __l }} }})"
        if op not in ("==", "!=", "<", "<=", ">", ">="):
            return f"({tag}match ({l}, {r}) {{ (__l, __r) => {choice(lambda o: f'__l {o} __r', f'__l {op} __r')} }})"
        # Comparisons borrow; a number stays where the comparison tells its type.
        if is_number(right):
            return f"({tag}match &({l}) {{ __l => {choice(lambda o: f'*__l {o} {r}', f'*__l {op} {r}')} }})"
        if is_number(left):
            return f"({tag}match &({r}) {{ __r => {choice(lambda o: f'{l} {o} *__r', f'{l} {op} *__r')} }})"
        return f"({tag}match (&({l}), &({r})) {{ (__l, __r) => {choice(lambda o: f'*__l {o} *__r', f'*__l {op} *__r')} }})"


def cargo(*args):
    env = dict(os.environ, CARGO_TARGET_DIR=str(ROOT / "target"), CARGO_PROFILE_DEV_DEBUG="0")
    return subprocess.run(["cargo", *args, "--message-format=json"], cwd=CRATE, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(mutants):
    """The switched crate; returns the mutants that cannot be switched."""
    shutil.copytree(PLAIN, CRATE, dirs_exist_ok=True)
    fixed, files = [], defaultdict(list)
    for m in mutants:
        files[m["file"]].append(m)
    for name, of_file in files.items():
        file = File(PLAIN / name, of_file)
        root = file.tree.root_node
        text = file.text[: root.start_byte].decode() + file.switched(root) + file.text[root.end_byte :].decode()
        (CRATE / name).write_text(text)
        fixed += file.fixed
    (CRATE / "src/lib.rs").write_text((PLAIN / "src/lib.rs").read_text() + "pub mod mutant;\n")
    (CRATE / "src/mutant.rs").write_text(SWITCH)
    return fixed


def uncompilable(output):
    """Ids of the mutants that the compiler's errors point at."""
    ids = set()
    for message in map(json.loads, output.splitlines()):
        if message.get("reason") != "compiler-message" or message["message"]["level"] != "error":
            continue
        if (message["message"]["code"] or {}).get("code") == "E0004":
            # A match that is no longer exhaustive: the arm for all that is left got a guard, and it is the last.
            at = message["message"]["spans"][0]
            end = max(s["line_end"] for child in message["message"]["children"] for s in child["spans"] if s["file_name"] == at["file_name"])
            lines = (CRATE / at["file_name"]).read_text().split("\n")
            arms = re.findall(r"\(!\s*crate::mutant::on\((\d+)\)", "\n".join(lines[at["line_start"] - 1 : end]))
            ids |= set(map(int, arms[-1:]))
        for span in message["message"]["spans"]:
            lines = (CRATE / span["file_name"]).read_text().split("\n")
            here = "\n".join(lines[span["line_start"] - 1 : span["line_end"]])
            found = re.findall(r"mutant::on\((\d+)\)", here)
            if not found and span["is_primary"]:
                before = "\n".join(lines[max(0, span["line_start"] - 12) : span["line_end"]])
                found = (re.findall(r"/\*mutants ([\d ]+)\*/", before) or [""])[-1].split()
            ids |= set(map(int, found)) if span["is_primary"] else set()
    return ids


class Tests:
    """The test binaries, and what each test costs and reaches."""

    def __init__(self, artifacts):
        self.binaries, self.tests = [], {}
        for a in map(json.loads, artifacts.splitlines()):
            if a.get("executable") and a.get("profile", {}).get("test"):
                self.binaries.append(a["executable"])

    def run(self, binary, tests, mutant, timeout, **env):
        """'passed', 'failed' or 'timeout', and the seconds; memory is limited, because a mutant may ask for all there is."""
        env = dict(os.environ, **SEED, CARGO_MANIFEST_DIR=str(CRATE), RAYON_NUM_THREADS="1", MUTANT=str(mutant), **env)
        # Address space: each thread that multiplies matrices reserves 1 GB of it.
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
        start, command = time.time(), [binary, "--exact", "--nocapture", "--test-threads=1", *tests]
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            code = subprocess.run(command, cwd=CRATE, env=env, timeout=timeout, preexec_fn=limit, **quiet).returncode
        except subprocess.TimeoutExpired:
            return "timeout", time.time() - start
        return ("failed" if code else "passed"), time.time() - start

    def measure(self):
        def one(job):
            binary, name = job
            reached = CRATE / f"reached.{threading.get_ident()}"
            verdict, seconds = self.run(binary, [name], 0, 600, MUTANTS_REACHED=str(reached))
            if verdict != "passed":
                sys.exit(f"{name} fails without a mutant")
            self.tests[name] = (seconds, binary, set(map(int, reached.read_text().split())))

        names = []
        for binary in self.binaries:
            listed = subprocess.run([binary, "--list"], cwd=CRATE, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            names += [(binary, line.removesuffix(": test")) for line in listed if line.endswith(": test")]
        in_threads(one, names)

    def verdict(self, mutant):
        """'caught', 'timeout', 'missed' or, where no test comes by, 'unreached'; cheap tests first, some at a time."""
        reaching = sorted((seconds, binary, name) for name, (seconds, binary, ids) in self.tests.items() if mutant in ids)
        share = 0.15
        while reaching:
            batch, cost = [reaching.pop(0)], 0.0
            while reaching and reaching[0][1] == batch[0][1] and cost + reaching[0][0] < share:
                batch.append(reaching.pop(0))
                cost = sum(seconds for seconds, _, _ in batch)
            share *= 2
            result, _ = self.run(batch[0][1], [name for _, _, name in batch], mutant, 10 + 8 * max(cost, batch[0][0]))
            if result != "passed":
                return "caught" if result == "failed" else "timeout"
            if not reaching:
                return "missed"
        return "unreached"


def in_threads(f, jobs):
    """`f` of each job on all cores, results in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(f, jobs))


def main(words):
    start = time.time()
    if not shutil.which("cargo-mutants"):
        sys.exit("cargo-mutants is missing, which makes the list of mutants: cargo install cargo-mutants --locked")
    subprocess.run(["bash", str(Path(__file__).with_name("assemble.sh"))], check=True)
    listed = subprocess.run(["cargo", "mutants", "--list", "--json"], cwd=PLAIN, check=True, stdout=subprocess.PIPE)
    mutants = [m for m in json.loads(listed.stdout) if not words or any(w in m["file"] for w in words)]
    for i, m in enumerate(mutants, 1):
        m["id"] = i
    alive, verdicts = mutants, {}
    while True:
        fixed = write(alive)
        # With what only tests use.
        check = cargo("check", "--lib", "--profile", "test")
        if check.returncode == 0:
            break
        bad = uncompilable(check.stdout)
        if not bad:
            sys.exit(check.stderr)
        verdicts |= {id: "unviable" for id in bad}
        alive = [m for m in alive if m["id"] not in bad]
    build = cargo("test", "--no-run")
    if build.returncode:
        sys.exit(build.stderr)
    tests = Tests(build.stdout)
    tests.measure()
    print(f"{len(mutants)} mutants, {len(tests.tests)} tests, built and measured in {time.time() - start:.0f} s", flush=True)
    verdicts |= {m["id"]: "fixed" for m in fixed}

    def judge(m):
        verdict = verdicts.get(m["id"]) or tests.verdict(m["id"])
        verdicts[m["id"]] = verdict
        if verdict in ("missed", "unreached"):
            print(f"{verdict}: {m['name']}", flush=True)

    in_threads(judge, mutants)
    table = defaultdict(Counter)
    for m in mutants:
        table[m["file"].split("/")[1]][verdicts[m["id"]]] += 1
        table["total"][verdicts[m["id"]]] += 1
    kinds = ["caught", "timeout", "missed", "unreached", "unviable", "fixed"]
    print("\n" + "".join(f"{k:>11}" for k in ["", *kinds]))
    for layer, counts in sorted(table.items(), key=lambda row: row[0] == "total"):
        print(f"{layer:>11}" + "".join(f"{counts[k]:>11}" for k in kinds))
    print(f"{time.time() - start:.0f} s")
    for m in fixed:
        print(f"cannot be switched, left to cargo mutants: {m['name']}")
    return table["total"]["missed"] + table["total"]["unreached"] > 0


sys.exit(main(sys.argv[1:]))
