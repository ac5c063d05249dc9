"""Exported models on the Hugging Face Hub: `hf://NAME/MODEL[@REVISION]` in place of a folder.

Repositories are downloaded by the Hub's own library to its own cache (`$HF_HOME`): its login and settings hold. What
was downloaded is verified as any exported folder is, when it is loaded.
"""

import glob
import re
from pathlib import Path

from data_prep import extras
from data_prep.errors import InputError
from stjax import manifest

_SCHEME = "hf:"
_ADDRESS = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")


def is_address(folder: Path) -> bool:
    """Whether a path is no folder, but an address on the Hub. (Of its two slashes a path keeps one.)"""
    return folder.parts[:1] == (_SCHEME,)


def download(address: Path) -> Path:
    """The folder that a model is downloaded to: the files that its manifest names, which are yet to be verified.

    Raises:
        InputError: no address of a model, no such repository or revision, one that may not be read or holds no exported
            model, the Hub cannot be reached, or its library is not installed.
    """
    text = "/".join(address.parts[1:])
    name = f"hf://{text}"
    if not (match := _ADDRESS.fullmatch(text)):
        raise InputError(f"{name} is no address of a model, expected hf://NAME/MODEL or hf://NAME/MODEL@REVISION")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ModuleNotFoundError as error:
        raise InputError(f"{name}: {extras.explain(error) or error}") from error
    repository, revision = match.groups()
    try:
        sealed = Path(huggingface_hub.hf_hub_download(repository, manifest.MANIFEST, revision=revision))
        folder = sealed.parent
        files = manifest.verify(folder, what="model folder", files=False)["files"]
        wanted = [glob.escape(file) for file in (manifest.MANIFEST, *files)]
        # By the commit that the manifest is of: a branch may have moved on meanwhile.
        return Path(huggingface_hub.snapshot_download(repository, revision=folder.name, allow_patterns=wanted))
    except errors.RevisionNotFoundError:
        raise InputError(f"{name}: {repository} has no revision {revision}") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: there is no such repository, or you may not read it; log in with: hf auth login"
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise InputError(f"{name} holds no exported model: it has no {manifest.MANIFEST}") from None
    except errors.LocalEntryNotFoundError:
        raise InputError(f"{name}: the Hub cannot be reached, and the model is not in its cache") from None
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise InputError(f"{name}: {error}") from None
