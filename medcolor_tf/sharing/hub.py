"""Colorizers and classifiers on the Hugging Face hub, addressed as hf://owner/name or hf://owner/name@revision."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256
from medcolor_tf.progress import say

PREFIX = "hf://"
_COMMIT = re.compile("[0-9a-f]{40}")
WEIGHTS, CARD, README = "colorizer.safetensors", "colorizer.json", "README.md"


@dataclass(frozen=True)
class Address:
    """A repository and, where one was named, the branch, tag or commit in it."""

    repository: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads hf://owner/name or hf://owner/name@revision; InputError for anything else."""
        match = re.fullmatch(PREFIX + r"([\w.-]+/[\w.-]+)(?:@([^@\s]+))?", text)
        if not match:
            raise InputError(
                f"{text}: expected hf://owner/name or hf://owner/name@revision, a model repository "
                "of the Hugging Face hub"
            )
        return cls(*match.groups())

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"https://huggingface.co/{self.repository}"


def is_address(text: str) -> bool:
    """Whether a value is meant for the hub, not for the file system."""
    return text.startswith(PREFIX)


def download(text: str, file: str = WEIGHTS) -> tuple[Path, str]:
    """Fetches a file, by default a colorizer's weights, or finds it in the hub's cache; checks it.

    The hub's cache names a file by its digest, with which the content is compared. An address
    without a commit may mean other weights tomorrow: which commit it meant today is said.

    Args:
        text: the address.
        file: its name in the repository.

    Returns:
        (local file, the address with the commit that the file is of, where that is known).

    Raises:
        InputError: no address, or nothing arrived (in two lines: what failed, and what to do); or
            what arrived is damaged, or of another commit than the address names.
    """
    address = Address.parse(text)
    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(address.repository, file, revision=address.revision)
    except Exception as error:  # the hub, its HTTP client and the file system each have their own
        raise InputError(
            f"{text}: {file} could not be downloaded from the Hugging Face hub "
            f"({_reason(error)})\n"
            f"Download {address.url}/resolve/{address.revision or 'main'}/{file} on a machine "
            "with a network and give that file's path instead"
        ) from error
    commit = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", str(path))
    pinned = f"{PREFIX}{address.repository}@{commit[1]}" if commit else text
    _check_content(Path(path), text)
    revision = address.revision or ""
    if _COMMIT.fullmatch(revision) and commit and commit[1] != revision:
        raise InputError(f"{text}: expected commit {revision}, received {commit[1]} ({path})")
    if commit and not _COMMIT.fullmatch(revision):
        say(f"note: {text} is {pinned} today; that address always means these weights")
    return Path(path), pinned


def _check_content(path: Path, text: str) -> None:
    """Compares a file of the hub's cache with the digest that it is named by there, if it is."""
    name = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        digest = file_sha256(path)
    elif _COMMIT.fullmatch(name):  # small files are named as git names them
        content = path.read_bytes()
        digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        return
    if digest != name:
        raise InputError(
            f"{path}: damaged: its digest is {digest}, the hub's {name}. Delete that file and "
            f"download {text} again"
        )


def publish(text: str, files: Mapping[str, bytes], private: bool, what: str = "Colorizer") -> str:
    """Uploads files in one commit to a model repository, which is made where there is none.

    Args:
        text: the address, without a revision.
        files: name in the repository -> content.
        private: whether nobody else may see it.
        what: is published, for the commit's message.

    Returns:
        The address with the new commit.

    Raises:
        InputError: no token, no permission, no network, or --private and a public repository.
    """
    address = Address.parse(text)
    if address.revision:
        raise InputError(
            f"{text}: expected hf://owner/name; a commit is added to its main branch, so leave "
            f"@{address.revision} out"
        )
    try:
        commit = _publish(address, files, private, f"{what} made with medcolor_tf")
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{text}: could not be published ({_reason(error)})\n"
            "Check the network, and that the token may write to this repository"
        ) from error
    return f"{text}@{commit}"


def _publish(address: Address, files: Mapping[str, bytes], private: bool, message: str) -> str:
    import huggingface_hub as hub

    if not hub.get_token():
        raise InputError(
            f"{PREFIX}{address.repository}: publishing needs a Hugging Face token with the right "
            "to write; set HF_TOKEN or log in with `hf auth login`"
        )
    api = hub.HfApi()
    # None, not False: an organisation may have made private the default.
    api.create_repo(address.repository, private=private or None, exist_ok=True)
    if private and not api.repo_info(address.repository).private:
        raise InputError(
            f"--private: {address.url} is there already and public; nothing was uploaded. Make it "
            "private in its settings, or choose another name"
        )
    operations = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in files.items()
    ]
    return api.create_commit(address.repository, operations, commit_message=message).oid


def _reason(error: Exception) -> str:
    """The exception's class and the first two lines it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"[:300]
