"""What every command shares: options, tables, exit codes, Ctrl-C, and what the system refuses."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import cli, execute, system_errors
from data_prep.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def ended(main, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    return end.value.code, capsys.readouterr().err


def parser():
    made = cli.Parser("command")
    made.add_argument("--workdir", type=Path)
    made.add_argument("--names", action="append")
    made.add_argument("--quick", action="store_true")
    made.add_argument_group("more").add_argument("--count", type=int, default=3)
    made.add_mutually_exclusive_group().add_argument("--model")
    made.add_argument("rest", nargs="*")
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=A", "--workdir=B"], "--workdir is given twice, with A and B; give it once"),
        (["--workdir", "A", "--workdir", "A"], "--workdir is given twice, with A and A"),
        (["--work=A", "--workdir=B"], "--workdir is given twice"),
        (["--count=3", "--count=4"], "--count is given twice, with 3 and 4"),
        (["--model=A", "--model=B"], "--model is given twice"),
    ],
)
def test_an_option_given_twice_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parser().parse_args(arguments)


@pytest.mark.parametrize(
    "arguments",
    [["--patch-size-px=3"], ["--patch_size_px", "3"], ["--patch_size-px=3"], ["--patch=3"], ["--patch_s=3"]],
)
@pytest.mark.parametrize("declared", ["--patch-size-px", "--patch_size_px"])
def test_hyphens_and_underscores_in_options_are_the_same(declared, arguments):
    made = cli.Parser("command")
    made.add_argument_group("more").add_argument(declared, type=int)
    made.add_argument("rest", nargs="*")
    assert made.parse_args(arguments).patch_size_px == 3
    assert made.parse_known_args([*arguments, "--beams_own=1"])[1] == ["--beams_own=1"]
    assert made.parse_args([*arguments, "--", "--patch_size-px=4"]).rest == ["--patch_size-px=4"]
    with pytest.raises(InputError, match="given twice, with 3 and 5"):
        made.parse_args([*arguments, "--patch_size_px=5"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--workdri", "there is no option --workdri; did you mean --workdir?"),
        ("--Count=3", r"--Count; did you mean --count\?"),
        ("--qui_ck", r"--qui_ck; did you mean --quick\?"),
        ("--zzzzzzz", "there is no option --zzzzzzz; see --help"),
        ("--mod_el", "did you mean --model"),
    ],
)
def test_options_that_do_not_exist_are_answered_with_the_nearest_that_does(option, message):
    with pytest.raises(InputError, match=message):
        parser().parse_args([option])


@pytest.mark.parametrize("old", ["--um-per-px", "--um_per_px", "--um-per"])
def test_options_are_known_under_an_old_name_with_a_note(old, capsys):
    made = cli.Parser("command", renamed={"--um-per-px": "--source-um-per-px"})
    made.add_argument("--source", default="here")
    made.add_argument("--source-um-per-px", type=float)
    assert made.parse_args([f"{old}=0.5"]).source_um_per_px == 0.5
    assert capsys.readouterr().err == f"note: {old} is now called --source-um-per-px\n"
    given = made.parse_args(["--source_um_per_px", "0.5", "--source=there"])
    assert (given.source_um_per_px, given.source, capsys.readouterr().err) == (0.5, "there", "")
    with pytest.raises(InputError, match="--source-um-per-px is given twice"):
        made.parse_args([old, "1", "--source-um-per-px=2"])


def test_options_that_may_come_more_than_once_do_and_a_parser_is_used_again():
    made = parser()
    for _ in range(2):
        given = made.parse_args(["--names=a", "--names=b", "--quick", "--quick", "--workdir=A", "x", "y"])
        assert (given.names, given.quick, given.workdir, given.rest) == (["a", "b"], True, Path("A"), ["x", "y"])
    assert made.parse_args([]).count == 3


def test_cells_of_a_table_are_apart_whatever_their_width():
    rows = [["", "reads", "error"], ["model", "65", "51.869 (4.10 to 55.00)"], ["a method of a long name", "7", "-"]]
    lines = cli.table(rows, align="<>>", least=(8, 6, 10))
    assert lines == [
        "                          reads                   error",
        "model                        65  51.869 (4.10 to 55.00)",
        "a method of a long name       7                       -",
    ]
    assert cli.table_line(["longer than its width", "5", "6"], align="<>>", widths=(4, 1, 3)) == (
        "longer than its width  5    6"
    )


def test_ctrl_c_says_what_is_kept(monkeypatch, capsys):
    @cli.when_interrupted(lambda: "half of it is kept")
    def main(_):
        raise KeyboardInterrupt

    assert ended(main, monkeypatch, capsys) == (130, "interrupted: half of it is kept\n")


@pytest.mark.parametrize(
    ("number", "within", "ended"),
    [
        ("SIGINT", "contextlib.nullcontext()", (130, "", "interrupted\n")),
        ("SIGTERM", "faults.exits_when_stopped(), faults.StopOnSigterm()", (0, "stopped by SIGTERM", "")),
    ],
)
def test_a_signal_in_a_destructor_is_not_forgotten(tmp_path, number, within, ended):
    code = (
        "import contextlib, signal, time; from data_prep import cli; from stjax.training import faults\n"
        f"class Held:\n    def __del__(self):\n        signal.raise_signal(signal.{number})\n"
        f"def main(_):\n    with {within}:\n        held = Held()\n        del held\n        time.sleep(30)\n"
        "cli.run(main)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.partition(";")[0], done.stderr) == ended


def test_processes_started_out_of_hearing_do_not_hear_ctrl_c():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')"
    with execute.deaf():
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.communicate()[0] == "went on\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(
    "start",
    [
        ["-m", "data_prep.check", "--help"],
        ["-m", "stjax.report", "--help"],
        ["-m", "stjax", "check", "--help"],
        ["-c", "import sys; sys.argv = ['/bin/stjax', 'check', '--help']; from stjax.cli import main; main()"],
    ],
)
def test_ctrl_c_while_modules_are_imported_ends_with_a_word(start, tmp_path):
    (tmp_path / "tqdm.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, *start], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_program_that_imports_us_keeps_its_own_ctrl_c():
    code = "import signal, data_prep, stjax; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def wrapped(error, cause=None):
    try:
        raise error from cause
    except type(error) as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space"),
        (OSError(errno.EROFS, "x", "/a/b"), "/a/b: Read-only file system; choose another folder"),
        (OSError(errno.EACCES, "x", b"/a/b"), "/a/b: Permission denied; ask for the right to it"),
        (FileNotFoundError(errno.ENOENT, "x", "/a/b"), "/a/b: No such file or directory"),
        (OSError("12000 requested and 0 written"), "No space left on device"),
        (RuntimeError("write() failed: No space left on device; writing a.ar"), "No space left on device; free"),
        (ValueError('RESOURCE_EXHAUSTED: Error writing "x": Disk quota exceeded'), "Disk quota exceeded; free"),
        (wrapped(ValueError("not saved"), OSError(errno.EDQUOT, "x")), "Disk quota exceeded; free"),
        (ExceptionGroup("two", [ValueError("x"), OSError(errno.EIO, "x")]), "Input/output error; the disk"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, expected):
    text = system_errors.explain(error)
    assert text is not None
    assert text.startswith(expected)
    assert "\n" not in text


@pytest.mark.parametrize(
    "error",
    [ValueError("a fault of ours"), wrapped(KeyError("x"), FileNotFoundError(errno.ENOENT, "x")), OSError("truncated")],
)
def test_other_errors_keep_their_traceback(error):
    assert system_errors.explain(error) is None


HDF5_BY_ITSELF = """import h5py, numpy
    file = h5py.File('x', 'w', libver='latest')
    kept.append((file, [file.create_dataset(str(i), data=numpy.ones(900), chunks=(10,)) for i in range(40)]))
    file.close()"""
TOO_LARGE = "File too large; write to another disk, whose file system takes larger files\n"


def full_disk(code, folder, *, call="cli.program(main)"):
    """Runs a main that may write no more than 30,000 bytes to a file."""
    limited = (
        "import resource, sys; from pathlib import Path; from data_prep import cli, h5_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        f"kept = []\ndef main(arguments):\n    {code}\n"
        f"{call}"
    )
    return subprocess.run(
        [sys.executable, "-c", limited], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "where"),
    [
        ("open('x', 'wb').write(bytes(50_000))", ""),
        ("import numpy\n    with h5_file.create(Path('x')) as file: file['a'] = numpy.ones(9_000)", "x: "),
        (
            "import anndata, numpy; values = numpy.random.default_rng(0).normal(size=(90, 200)); "
            "h5_file.write_anndata(Path('x'), anndata.AnnData(values))",
            "x: ",
        ),
        (HDF5_BY_ITSELF, ""),
    ],
)
def test_a_disk_that_takes_no_more_ends_a_command_with_a_line(code, where, tmp_path):
    done = full_disk(code, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")  # HDF5 by itself: a segmentation fault
    assert done.stderr == f"error: {where}{TOO_LARGE}"


def test_a_program_that_calls_a_command_outlives_its_full_disk(tmp_path):
    call = "try: cli.run(main)\nexcept SystemExit as ended: print('still here', ended.code)"
    done = full_disk("open('x', 'wb').write(bytes(50_000))", tmp_path, call=call)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here 1\n", f"error: {TOO_LARGE}")


def test_folders_that_can_be_written_are_left_as_they_are(tmp_path):
    system_errors.check_folder(tmp_path / "new/and/deep", "--out")
    system_errors.check_folder(tmp_path, "--out")
    system_errors.check_file(tmp_path / "new/report.html", "--out")
    (tmp_path / "link").symlink_to(tmp_path)
    system_errors.check_folder(tmp_path / "link/new", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_folders_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, message in [
        ("file", "file is no folder; choose another"),
        ("file/under", r"--out .*file/under: .*file is no folder; choose another"),
        ("link", "link is a link to nothing"),
        ("link/under", "link is a link to nothing"),
        ("x" * 300, "File name too long; choose a shorter name"),
        ("new/" + "x" * 300 + "/more", "File name too long"),
    ]:
        with pytest.raises(InputError, match=message):
            system_errors.check_folder(tmp_path / name, "--out")
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        system_errors.check_file(tmp_path, "--out")

    def refuse(**_):
        raise OSError(errno.EROFS, "x")

    monkeypatch.setattr(system_errors.tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"--out .*new cannot be written: .*: Read-only file system; choose another"):
        system_errors.check_folder(tmp_path / "new", "--out")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A,B", ("A", "B")),
        (" A , B,", ("A", "B")),
        ('"Breast, left",B', ("Breast, left", "B")),
        ('B, "Breast, left"', ("B", "Breast, left")),
        ('5" disc,B', ('5" disc', "B")),
        ("A\nB", ("A", "B")),
        ("", ()),
        (" , ", ()),
    ],
)
def test_names_are_separated_by_commas_outside_quotes(text: str, names: tuple[str, ...]) -> None:
    assert cli.names(text) == names
