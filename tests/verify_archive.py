#!/usr/bin/env python3
"""Checks an archive, or an export of one, by docs/archive-format.md alone.

Shares no code with Lakehead: Python's standard library and `cryptography`. Reads a local folder.

    verify_archive.py archive ROOT --prefix P --trust trust.json [--pin seq:sha256]
    verify_archive.py export FOLDER

Prints one line per finding and a summary. Exit: 0 nothing wrong, 1 something is, 2 usage.
Deliberately simple: everything in memory, no notion of pending blobs, crash windows or retention.
"""
import argparse
import base64
import binascii
import datetime
import hashlib
import json
import pathlib
import re
import sys
import urllib.parse

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, utils
except ImportError as error:
    print(f"cannot import cryptography: {error}", file=sys.stderr)
    sys.exit(77)

DIGEST_TYPE = "application/vnd.lakehead.digest.v1+json"
ROTATION_TYPE = "application/vnd.lakehead.rotation.v1+json"
findings = []


def sha(data):
    return hashlib.sha256(data).digest()


def found(what, where):
    findings.append((what, where))
    print(f"{what}: {where}")


def pae(kind, payload):
    kind = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def signature_fits(algorithm, key, signature, message):
    try:
        if algorithm == "Ed25519":
            key.verify(signature, message)
        elif algorithm == "ES256" and len(signature) == 64:
            r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
            key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        else:
            return False
        return True
    except (InvalidSignature, ValueError):
        return False


class Trust:
    def __init__(self, text):
        file = json.loads(text)
        assert file["format"] == "lakehead-trust/1"
        self.keys = {}
        for key in file["keys"]:
            der = base64.b64decode(key["publicKey"], validate=True)
            assert sha(der).hex() == key["keyId"], "a key id is not its key's hash"
            self.keys[key["keyId"]] = (key, serialization.load_der_public_key(der))
        stated = []
        for envelope in file.get("rotations", []):
            assert envelope["payloadType"] == ROTATION_TYPE
            payload = base64.b64decode(envelope["payload"], validate=True)
            statement = json.loads(payload)
            signed = {s["keyid"]: base64.b64decode(s["sig"]) for s in envelope["signatures"]}
            for key_id in (statement["from"], statement["to"]["keyId"]):
                key, public = self.keys[key_id]
                assert signature_fits(key["algorithm"], public, signed[key_id], pae(ROTATION_TYPE, payload))
            stated.append((statement["from"], statement["to"]))
        for key, _ in self.keys.values():
            assert "follows" not in key or (key["follows"], key) in stated, "a rotation is not signed by both"

    def check(self, where, payload, signatures, until):
        if not signatures:
            found("unsigned", where)
        if len({signature["keyid"] for signature in signatures}) < len(signatures):
            found("signed twice", where)
        for signature in signatures:
            if signature["keyid"] not in self.keys:
                found("unknown key", where)
                continue
            key, public = self.keys[signature["keyid"]]
            try:
                raw = base64.b64decode(signature["sig"], validate=True)
            except binascii.Error:
                raw = b""
            if not signature_fits(key["algorithm"], public, raw, pae(DIGEST_TYPE, payload)):
                found("bad signature", where)
            # Times are spelled one way, so they compare as text.
            if not key["notBefore"] <= until <= key.get("notAfter", "9"):
                found("expired key", where)


def merkle_root(leaves):
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha(b"\x01" + merkle_root(leaves[:k]) + merkle_root(leaves[k:]))


def root_of_proof(leaf, index, count, path):
    if count == 1:
        return leaf if not path else None
    k = 1 << ((count - 1).bit_length() - 1)
    if not path:
        return None
    sibling = bytes.fromhex(path[-1])
    if index < k:
        return sha(b"\x01" + root_of_proof(leaf, index, k, path[:-1]) + sibling)
    return sha(b"\x01" + sibling + root_of_proof(leaf, index - k, count - k, path[:-1]))


def parse(data):
    """A digest object: header, payload, signatures, entry lines. Raises ValueError if a byte is out of place."""
    text = data.decode("utf-8")
    if not text.endswith("]}\n"):
        raise ValueError("no end")
    head, _, body = text[:-3].partition(',"entries":[\n')
    envelope = json.loads(head + "}")
    if list(envelope) != ["payloadType", "payload", "signatures"] or envelope["payloadType"] != DIGEST_TYPE:
        raise ValueError("not a digest")
    if json.dumps(envelope, separators=(",", ":"), ensure_ascii=False) + "" != head + "}":
        raise ValueError("not spelled as written")
    payload = base64.b64decode(envelope["payload"], validate=True)
    if base64.b64encode(payload).decode() != envelope["payload"]:
        raise ValueError("payload is not canonical base64")
    for signature in envelope["signatures"]:
        raw = base64.b64decode(signature["sig"], validate=True)
        if base64.b64encode(raw).decode() != signature["sig"]:
            raise ValueError("signature is not canonical base64")
    header = json.loads(payload)
    if header["format"] != "lakehead-digest/1":
        raise ValueError("unknown format")
    if body and not body.endswith("\n"):
        raise ValueError("last entry cut")
    lines = body[:-1].split(",\n") if body else []
    leaves = [sha(b"\x00" + line.encode()) for line in lines]
    if header["count"] != len(lines) or header["root"] != merkle_root(leaves).hex():
        raise ValueError("entries are not those signed")
    return header, payload, envelope["signatures"], lines


def when(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def encode(text, dash):
    keep = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._" + (b"" if dash else b"-")
    return "".join(chr(b) if b in keep else f"%{b:02X}" for b in text.encode("utf-8"))


def hashed_id(path):
    """The hash of the id in a path: long ids are hashed there already."""
    named = path.rpartition("/")[2][: -len(".json")].partition("-")[2]
    hashed = re.fullmatch("sha256-([0-9a-f]{64})", named)
    return hashed[1] if hashed else sha(urllib.parse.unquote_to_bytes(named)).hex()


def check_blob(path, data, entry):
    """A blob's content against its path."""
    try:
        content = json.loads(data)
        blob_id = content["id"]
        keys = [k for k in content if k != "userId"]
        assert keys == ["eventType", "timestamp", "tenantId", "data", "id", "source"]
    except (ValueError, KeyError, TypeError, AssertionError):
        return found("contradiction", path)
    folder, _, name = path.rpartition("/")
    named = name[: -len(".json")].partition("-")[2]
    if entry.get("conflictOf"):
        suffix = "." + hashlib.sha256(data).hexdigest()[:16]
        if not named.endswith(suffix):
            return found("contradiction", path)
        named = named[: -len(suffix)]
    if named not in (encode(blob_id, False), "sha256-" + sha(blob_id.encode()).hex()):
        found("contradiction", path)
    stamp = content["timestamp"]
    try:
        if isinstance(stamp, int):
            at = datetime.datetime.fromtimestamp(stamp / 1000, datetime.timezone.utc)
        else:
            at = when(stamp).astimezone(datetime.timezone.utc)
    except (ValueError, TypeError):
        return None
    if folder != at.strftime("year=%Y/month=%m/day=%d"):
        found("back-dated", path)
    return None


class Archive:
    def __init__(self, root, prefix, trust):
        self.base = pathlib.Path(root, prefix)
        self.trust = trust
        self.digests = {}  # (chain, seq) -> (sha256, header)
        self.last = {}  # chain -> header
        self.entries = {}  # path -> entry
        self.events = {}  # (tenant, hash of the id) -> entry

    def run(self, pin):
        integrity = self.base / "_integrity" / "v1"
        seen = set()
        for folder in sorted(integrity.glob("chain=*")):
            self.chain(folder, seen)
        self.heads(integrity, seen)
        self.claims()
        if pin:
            seq, _, digest = pin.partition(":")
            if not any(key[1] == int(seq) and value[0] == digest for key, value in self.digests.items()):
                found("rolled back", f"pinned {pin} is not there")
        for path in (self.base / "_integrity").rglob("*"):
            if path.is_file() and path not in seen:
                found("stray", path)
        return self.blobs()

    def chain(self, folder, seen):
        chain_id = folder.name[len("chain="):]
        before = None
        files = sorted(p for p in folder.iterdir() if re.fullmatch(r"\d{20}\.dsse\.json", p.name))
        for expected, file in enumerate(files):
            seen.add(file)
            data = file.read_bytes()
            try:
                header, payload, signatures, lines = parse(data)
            except (ValueError, KeyError, TypeError) as why:
                found("unreadable", f"{file}: {why}")
                before = (sha(data).hex(), None)
                continue
            seq = int(file.name[:20])
            self.trust.check(file, payload, signatures, header["until"])
            if (header["chainId"], header["seq"]) != (chain_id, seq):
                found("replayed", file)
            if seq != expected:
                found("missing digest", f"{folder} before {seq}")
            self.follows(file, header, before)
            for line in lines:
                self.entry(file, json.loads(line))
            before = (sha(data).hex(), header)
            self.digests[(chain_id, seq)] = before
            self.last[chain_id] = header

    @staticmethod
    def follows(file, header, before):
        if header["previous"] != (before and before[0]) or (header["kind"] == "genesis") != (before is None):
            found("broken chain", file)
        if before and before[1]:
            if before[1]["kind"] in ("farewell", "ending"):
                found("after the end", file)
            if header["since"] != before[1]["until"]:
                found("broken chain", file)
        span = (when(header["until"]) - when(header["since"])).total_seconds()
        covered = any(g["from"] <= header["since"] and g["to"] >= header["until"] for g in header.get("gaps", []))
        if span < 0 or (span > 2 * header["heartbeatSeconds"] and not covered and header["kind"] != "ending"):
            found("undeclared gap", file)

    def entry(self, file, entry):
        assert re.fullmatch(r"[0-9a-f]{32}", entry["salt"])
        path = entry["path"]
        if path.rpartition("/")[0] != when(entry["eventTime"]).strftime("year=%Y/month=%m/day=%d"):
            found("contradiction", f"{path} in {file}")
        known = self.entries.setdefault(path, entry)
        if known["sha256"] != entry["sha256"]:
            found("two contents", path)
        elif not entry.get("conflictOf"):
            event = self.events.setdefault((entry["tenant"], hashed_id(path)), entry)
            if event["sha256"] != entry["sha256"]:
                print(f"notice: reused id: {path} and {event['path']}")

    def heads(self, integrity, seen):
        for (chain_id, seq), (digest, header) in self.digests.items():
            if "chains" in header:
                copy = integrity / "heads" / f"date={header['until'][:10]}" / f"{chain_id}-{seq:020}.dsse.json"
                if not copy.is_file() or sha(copy.read_bytes()).hex() != digest:
                    found("head copy", copy)
                seen.add(copy)

    def claims(self):
        for header in [h for _, h in self.digests.values()]:
            claims = [
                (t["chainId"], t["seq"], t["sha256"]) for t in header.get("chains", []) + header.get("witnessed", [])
            ]
            for ended in header.get("ended", []):
                claims.append((ended["chainId"], ended["seq"], ended["sha256"]))
                claims.append((ended["chainId"], ended["seq"] + 1, ended["ending"]))
            base = header.get("settled", {}).get("base")
            if base:
                claims.append((base["chainId"], base["seq"], base["sha256"]))
            for chain_id, seq, digest in claims:
                if self.digests.get((chain_id, seq), (None,))[0] != digest:
                    found("truncated or rolled back", f"chain {chain_id}, digest {seq}")
        for chain_id, header in self.last.items():
            if header["kind"] not in ("farewell", "ending"):
                print(f"notice: chain {chain_id} is open")

    def blobs(self):
        checked = 0
        left = dict(self.entries)
        for file in self.base.rglob("*"):
            path = file.relative_to(self.base).as_posix()
            if not file.is_file() or path.startswith("_integrity/"):
                continue
            entry = left.pop(path, None)
            if entry is None:
                found("unlisted", path)
                continue
            data = file.read_bytes()
            checked += 1
            if sha(data).hex() != entry["sha256"] or len(data) != entry["size"]:
                found("modified", path)
            else:
                check_blob(path, data, entry)
        for path in left:
            found("missing", path)
        if not checked:
            found("nothing checked", self.base)
        return checked


def check_export(folder):
    folder = pathlib.Path(folder)
    listed = set()
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        listed.add(name)
        if sha((folder / name).read_bytes()).hex() != digest:
            found("checksum", name)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    for name in files ^ listed:
        found("not in SHA256SUMS, or gone", name)
    custody = json.loads((folder / "custody.json").read_text())
    for problem in custody["problems"]:
        found("problem", problem)
    trust = Trust((folder / "trust.json").read_text())
    headers, proved = {}, set()
    for line in (folder / "proofs.jsonl").read_text().splitlines():
        proof = json.loads(line)
        name = f"headers/chain={proof['chainId']}/{proof['seq']:020}.dsse.json"
        if name not in headers:
            envelope = json.loads((folder / name).read_text())
            payload = base64.b64decode(envelope["payload"], validate=True)
            headers[name] = json.loads(payload)
            trust.check(name, payload, envelope["signatures"], headers[name]["until"])
        header, entry = headers[name], json.loads(proof["leaf"])
        if (header["chainId"], header["seq"], header["count"]) != (proof["chainId"], proof["seq"], proof["count"]):
            found("header of another digest", name)
        leaf = sha(b"\x00" + proof["leaf"].encode())
        if root_of_proof(leaf, proof["index"], proof["count"], proof["proof"]).hex() != header["root"]:
            found("no proof", entry["path"])
        if entry["tenant"] != custody["tenant"]:
            found("another tenant's entry", entry["path"])
        file = folder / "blobs" / entry["path"]
        if not file.is_file() or sha(file.read_bytes()).hex() != entry["sha256"]:
            found("modified", entry["path"])
        proved.add("blobs/" + entry["path"])
    for name in files:
        if name.startswith(("blobs/", "headers/")) and name not in proved | headers.keys():
            found("without a proof", name)
    if (custody["blobs"], custody["headers"]) != (len(proved), len(headers)):
        found("not as custody.json says", folder)
    if not proved:
        found("nothing checked", folder)
    return len(proved)


def main():
    parser = argparse.ArgumentParser()
    modes = parser.add_subparsers(dest="mode", required=True)
    archive = modes.add_parser("archive")
    archive.add_argument("root")
    archive.add_argument("--prefix", default="ml_audit")
    archive.add_argument("--trust", required=True)
    archive.add_argument("--pin")
    modes.add_parser("export").add_argument("folder")
    args = parser.parse_args()
    if args.mode == "archive":
        trust = Trust(pathlib.Path(args.trust).read_text())
        checked = Archive(args.root, args.prefix, trust).run(args.pin)
    else:
        checked = check_export(args.folder)
    print(f"{checked} blobs checked, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
