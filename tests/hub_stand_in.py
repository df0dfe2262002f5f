"""What stands for the Hugging Face hub in tests: uploads that are kept, and given back."""

import huggingface_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeApi:
    """Stands for huggingface_hub.HfApi."""

    def __init__(self, public=False, failure=None):
        self.public, self.failure, self.files, self.calls = public, failure, {}, []

    def __call__(self):
        return self

    def create_repo(self, repository, private, exist_ok):
        if self.failure:
            raise self.failure
        self.calls.append((repository, private, exist_ok))

    def repo_info(self, repository):
        return type("Info", (), {"private": not self.public})

    def create_commit(self, repository, operations, commit_message):
        self.files = {o.path_in_repo: o.path_or_fileobj for o in operations}
        return type("Commit", (), {"oid": COMMIT})


def on_the_hub(monkeypatch, api, token: str | None = "secret"):
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    return api


class Downloads:
    """Stands for huggingface_hub.hf_hub_download: what an api got, as the hub's cache has it."""

    def __init__(self, api, folder):
        self.api, self.folder = api, folder / "snapshots" / COMMIT

    def __call__(self, repository, name, revision):
        assert repository == self.api.calls[-1][0]
        assert revision in (None, COMMIT)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(self.api.files[name])
        return str(self.folder / name)
