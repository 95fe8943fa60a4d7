"""A model directory against its manifest and its signature: each kind of damage is one line, and the server's too."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import integrity, signature, verify
from tasks.quantize import manifest

needs_ssh = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed (openssh-client)")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory of two files with its manifest."""
    place = tmp_path / "models/m/int4"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(bytes(range(256)) * 16)
    (place / "config.json").write_text("{}")
    manifest.write(place)
    return place


def ask(monkeypatch, capsys, module, *words: object, code: int = 0) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    capsys.readouterr()
    assert module.main() == code
    told = capsys.readouterr()
    return (told.out + told.err).splitlines()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm, words", [
    (lambda d: flip(d / "model.safetensors"), "model.safetensors is damaged: sha256 "),
    (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors is damaged: sha256 e3b0c44298fc..., "),
    (lambda d: (d / "config.json").unlink(), "config.json is missing: manifest.json lists it"),
    (lambda d: (d / "chat_template.jinja").write_text("{{ evil }}"), "chat_template.jinja is not listed in "),
    (lambda d: (d / "deep").mkdir() or (d / "deep/file").write_text(""), "deep/file is not listed in manifest.json"),
    (lambda d: (d / "manifest.json").write_text((d / "manifest.json").read_text()[:40]), "manifest.json is damaged"),
    (lambda d: (d / "manifest.json").write_text("{}"), "manifest.json is damaged (KeyError): restore it"),
    (lambda d: (d / "manifest.json").write_text('{"sha256": {}}'), "manifest.json is damaged (ValueError)"),
    (lambda d: (d / "manifest.json").unlink(), "manifest.json is missing: quantize and export write one"),
    (lambda d: shutil.rmtree(d), "int4 is no directory"),
])
def test_each_damage_is_one_line(model, monkeypatch, capsys, harm, words):
    assert ask(monkeypatch, capsys, verify, "--model", model) == [
        f"{model}: every file is what manifest.json says; not signed"]
    harm(model)
    lines = ask(monkeypatch, capsys, verify, "--model", model, code=1)
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]


def test_sums_are_those_of_sha256sum(model):
    done = subprocess.run(["sha256sum", "model.safetensors"], cwd=model, capture_output=True, text=True)
    assert hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest() == done.stdout.split()[0]
    assert done.stdout.split()[0] in (model / "manifest.json").read_text() and integrity.faults(model) == []


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> Path:
    """Two SSH keys, `alice` and `mallory`, and a `signers` file that names alice."""
    place = tmp_path_factory.mktemp("keys")
    for name in ("alice", "mallory"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", place / name], check=True)
    public = (place / "alice.pub").read_text()
    (place / "signers").write_text(f'alice@example.org namespaces="catena-model" {public}')
    (place / "for-git").write_text(f'alice@example.org namespaces="git" {public}')
    return place


@needs_ssh
def test_a_signed_directory_is_known_by_its_signer(model, keys, monkeypatch, capsys):
    before = sorted(model.iterdir())
    told = ask(monkeypatch, capsys, signature, model, "--key", keys / "alice")
    assert told == [f"signed: {model.parent / 'int4.sig'}"]
    assert sorted(model.iterdir()) == before  # DVC's hash of the directory stands
    words = f"{model}: every file is what manifest.json says; signed by alice@example.org"
    assert ask(monkeypatch, capsys, verify, "--model", model, "--signers", keys / "signers") == [words]
    # ssh-keygen itself, as a stranger would ask it
    done = subprocess.run(["ssh-keygen", "-Y", "verify", "-f", keys / "signers", "-I", "alice@example.org", "-n",
                           "catena-model", "-s", model.parent / "int4.sig"],
                          input=(model / "manifest.json").read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "gpg.ssh.allowedSignersFile")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(keys / "signers"))
    assert ask(monkeypatch, capsys, verify, "--model", model) == [words]


@needs_ssh
def test_a_signature_that_does_not_hold_is_one_line(model, keys, monkeypatch, capsys):
    def refused(signers: str) -> str:
        lines = ask(monkeypatch, capsys, verify, "--model", model, "--signers", keys / signers, code=1)
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0]

    assert "int4 is not signed" in refused("signers")
    signature.sign(model, keys / "mallory")
    assert "signed by nobody whom" in refused("signers")
    signature.sign(model, keys / "alice")
    assert "is no allowed_signers file" in refused("nowhere")
    assert "signed by nobody whom" in refused("for-git") or "not of" in refused("for-git")  # a key for commits alone
    (model / "config.json").write_text('{"changed": 1}')
    manifest.write(model)  # checksums mended by whoever changed the file: the signature tells
    assert "changed since alice@example.org signed it" in refused("signers")
    (model.parent / "int4.sig").write_text("-----BEGIN SSH SIGNATURE-----\n")
    assert "or damaged" in refused("signers")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.chdir(model)
    assert "give --signers FILE, or set git's gpg.ssh.allowedSignersFile" in ask(
        monkeypatch, capsys, verify, "--model", model, code=1)[0]


@needs_ssh
def test_what_is_damaged_or_without_a_key_is_not_signed(model, keys, monkeypatch, capsys, tmp_path):
    assert "nowhere is no key file: ssh-keygen -t ed25519" in ask(
        monkeypatch, capsys, signature, model, "--key", tmp_path / "nowhere", code=1)[0]
    (tmp_path / "junk").write_text("no key")
    (tmp_path / "junk").chmod(0o600)
    told = ask(monkeypatch, capsys, signature, model, "--key", tmp_path / "junk", code=1)
    assert "ssh-keygen did not sign" in told[0]
    flip(model / "model.safetensors")
    assert "nothing was signed: " in ask(monkeypatch, capsys, signature, model, "--key", keys / "alice", code=1)[0]
    assert not (model.parent / "int4.sig").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(signature.SignatureError, match="ssh-keygen not found: install it"):
        signature.ssh_keygen("verify")
