"""A model directory signed with an SSH key: the signature of its manifest.json lies beside the directory.

    ./run sign models/smollm2/int4 [--key FILE]        writes models/smollm2/int4.sig
    ./run verify --model models/smollm2/int4 [--signers FILE]

manifest.json holds the sha256 of every other file, so one signature vouches for all. The directory itself stays as
DVC hashed it. Keys, agents and allowed_signers files are ssh's and git's own (ssh-keygen -Y, PROTOCOL.sshsig).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from flows import integrity
from tasks.quantize.manifest import NAME

NAMESPACE = "catena-model"  # what a key signs for here; a signature of a commit is none of a model


class SignatureError(RuntimeError):
    """A signature cannot be made, or does not hold; the message is one line with the remedy."""


def beside(directory: Path) -> Path:
    """Where the signature of a model directory lies."""
    return directory.resolve().with_name(f"{directory.resolve().name}.sig")


def ssh_keygen(*words: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """`ssh-keygen -Y WORDS`, asking nothing where there is no terminal. Raises SignatureError where it is missing."""
    program = shutil.which("ssh-keygen")
    if not program:
        raise SignatureError("ssh-keygen not found: install it (Debian: apt-get install openssh-client)")
    return subprocess.run([program, "-Y", *words], input=given, capture_output=True)


def git_config(name: str) -> str:
    """A value of git's configuration; empty where it has none."""
    return subprocess.run(["git", "config", "--get", "--path", name], capture_output=True, text=True).stdout.strip()


def last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """What ssh-keygen said at the end."""
    return ((done.stderr + done.stdout).decode(errors="replace").strip().splitlines() or ["failed"])[-1]


def sign(directory: Path, key: Path) -> Path:
    """Sign the manifest of a whole model directory with an SSH key (private, or public with an agent); the signature.

    Raises SignatureError where the directory does not match its manifest or ssh-keygen refuses.
    """
    if faults := integrity.faults(directory):
        raise SignatureError(f"nothing was signed: {faults[0]}")
    if not key.is_file():
        raise SignatureError(f"{key} is no key file: ssh-keygen -t ed25519 makes one, --key FILE names it")
    done = ssh_keygen("sign", "-q", "-n", NAMESPACE, "-f", str(key), given=(directory / NAME).read_bytes())
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise SignatureError(f"{key}: ssh-keygen did not sign: {last_line(done)}")
    path = beside(directory)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(done.stdout)
    partial.replace(path)
    return path


def check(directory: Path, signers: Path | None) -> str:
    """Who signed the directory's manifest, in words. `signers` None: git's own file, where there is one.

    Raises SignatureError where a signature does not hold, and where `signers` is given and there is none.
    """
    path, wanted = beside(directory), signers is not None
    if not path.exists():
        if wanted:
            raise SignatureError(f"{directory} is not signed: {path} is not there (./run sign makes it)")
        return "not signed"
    if signers is None and (own := git_config("gpg.ssh.allowedSignersFile")):
        signers = Path(own)
    if signers is None:
        raise SignatureError(f"{path} is there, but not who may sign: give --signers FILE, or set git's "
                             "gpg.ssh.allowedSignersFile")
    if not signers.is_file():
        raise SignatureError(f"{signers} is no allowed_signers file (man ssh-keygen, ALLOWED SIGNERS)")
    found = ssh_keygen("find-principals", "-s", str(path), "-f", str(signers))
    names = found.stdout.decode(errors="replace").split("\n")[0].strip()
    if found.returncode or not names:
        raise SignatureError(f"{path}: signed by nobody whom {signers} names, or damaged ({last_line(found)})")
    done = ssh_keygen("verify", "-f", str(signers), "-I", names, "-n", NAMESPACE, "-s", str(path),
                      given=(directory / NAME).read_bytes())
    if done.returncode:
        raise SignatureError(f"{path} is not of {directory / NAME} as it is now: changed since {names} signed "
                             f"it ({last_line(done)})")
    return f"signed by {names}"


def main() -> int:
    """The command line of ./run sign. Exit codes: 0 signed, 1 not, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="./run sign", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR", help="model directory with a manifest.json")
    parser.add_argument("--key", type=Path, metavar="FILE",
                        help="SSH key (default: git's user.signingKey, else ~/.ssh/id_ed25519)")
    given = parser.parse_args()
    key = given.key or Path(git_config("user.signingKey") or Path.home() / ".ssh" / "id_ed25519")
    try:
        print(f"signed: {sign(given.directory, key)}")
    except (SignatureError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
